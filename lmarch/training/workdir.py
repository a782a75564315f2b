"""What a run leaves behind besides checkpoints: the resolved config and a record of how it came about.

`config.json` is the config, resolved; `run.json` says with which versions, device and commit, how large, how long
and how it ended.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

import lmarch
from lmarch.config import Config, from_dict
from lmarch.errors import UserError
from lmarch.shipped import checkout
from lmarch.training.metrics import read_metrics

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


def open_workdir(path: str | Path, config: Config) -> Path:
    """Creates the folder, or joins a run that the same config began there; raises UserError otherwise.

    The config is written by `write_config`, when nothing is left to refuse: a mistake does not claim a folder.
    """
    workdir = Path(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / "config.json").exists():
            _refuse_other(workdir, config)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.strerror}): choose another folder") from error
    return workdir


def write_config(workdir: Path, config: Config) -> None:
    write_json(workdir / "config.json", {**config.to_dict(), "fingerprint": config.fingerprint()})


def read_config(workdir: str | Path) -> Config:
    """The config that a run was started with; raises UserError where there is no run."""
    file = Path(workdir) / "config.json"
    if not file.is_file():
        raise UserError(
            f"no run in {str(workdir)!r}: it has no config.json (train one with lmarch train --workdir={workdir})"
        )
    try:
        tree = json.loads(file.read_text())
        tree.pop("fingerprint")
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not the config of a run ({error}): was it edited or cut off?") from error
    return from_dict(tree)


def run_record(config: Config) -> dict[str, Any]:
    """The facts about a run that is about to start."""
    return {"fingerprint": config.fingerprint(), **machine_record(), "command": " ".join(sys.argv)}


def machine_record() -> dict[str, Any]:
    """When, with which code, versions and device something is measured."""
    device = jax.devices()[0]
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "lmarch": lmarch.__version__,
            "python": platform.python_version(),
            **{name: _installed(name) for name in PACKAGES},
        },
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git_commit": git_commit(),
    }


def _installed(package: str) -> str | None:
    """Its version; None where it is not there: text files are trained on without TFDS."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the code that runs, with `+changes` if the work tree differs from it.

    None where lmarch does not run from a checkout of its own: another repository may well hold the environment that it
    is installed in, and that one's commit says nothing. The version then says which code it is.
    """
    top = checkout()
    if top is None:
        return None
    try:
        root, commit, changes = (
            subprocess.run(["git", "-C", str(top), *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "--show-toplevel"], ["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    if Path(root).resolve() != top.resolve():
        return None
    return commit + ("+changes" if changes else "")


def complete_record(folder: Path, config: Config) -> None:
    """Of a run that was killed between its last save and the end of its record."""
    file = folder / "run.json"
    record = json.loads(file.read_text())
    if record["status"] == "finished":
        return
    validated = [e for e in read_metrics(folder) if e.get("validation_bits_per_byte") is not None]
    ended = {
        "status": "finished",
        "steps": config.total_steps,
        "trained_tokens": config.total_steps * config.tokens_per_step,
        "validation_bits_per_byte": validated[-1]["validation_bits_per_byte"],
    }
    write_json(file, {**record, **ended})


def write_json(file: Path, value: Any) -> None:
    """Replaces the file in one step, so that a reader never sees half of it."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, default=str) + "\n")
    partial.replace(file)


def _refuse_other(workdir: Path, config: Config) -> None:
    before = read_config(workdir)
    if before.fingerprint() == config.fingerprint():
        return
    old, new = _flatten(before.meaningful()), _flatten(config.meaningful())
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    differ = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed[:4])
    raise UserError(f"{workdir} holds a run of another config ({differ}): choose another --workdir")


def _flatten(tree: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return flat
