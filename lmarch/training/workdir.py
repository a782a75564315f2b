"""What a run leaves behind besides checkpoints: the resolved config and a record of how it came about.

`config.json` is the config, resolved; `run.json` says with which versions, device and commit, how large, how long
and how it ended.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmarch.config import Config, from_dict
from lmarch.errors import UserError
from lmarch.provenance import TRAINING, code_digest, machine_record
from lmarch.training.metrics import read_metrics


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


def run_record(config: Config, workdir: Path) -> dict[str, Any]:
    """The facts about a run that is about to start, or to go on."""
    before = _record(workdir)
    return {
        "fingerprint": config.fingerprint(),
        **machine_record(),
        "code": then(trained_by(workdir), code_digest(TRAINING)),
        "command": " ".join(sys.argv),
        **{key: before[key] for key in ("started_from", "ancestors") if key in before},
    }


def ancestors(base: Path) -> list[dict[str, Any]]:
    """Of a run that starts from `base`: what tells the text of that one, and of those before it."""
    record, config = _record(base), read_config(base)
    here = {"config": config.to_dict(), "rows_fingerprint": record.get("rows_fingerprint")}
    return [here, *record.get("ancestors", [])]


def _record(workdir: Path) -> dict[str, Any]:
    file = workdir / "run.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return record


def trained_by(workdir: Path) -> str | None:
    """The digest of the code that trained a run, or of each that did, one after the other; None where there is no run."""
    record = _record(workdir)
    return record.get("code", "unknown code") if record else None


def then(before: str | None, code: str) -> str:
    return code if before is None or before.split(" then ")[-1] == code else f"{before} then {code}"


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
