"""What a run leaves behind besides checkpoints: the resolved config, its tokenizer, and a record of how it came about.

`config.json` is the config, resolved; `tokenizer.model` or `.json` the file that it names; `run.json` says with which versions,
device and commit, how large, how long and how it ended.
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmarch.config import Config, from_dict
from lmarch.data.tokenizers import Tokenizer, load_tokenizer, tokenizer_file, tokenizer_of
from lmarch.durable import replacing, write_json, writing
from lmarch.errors import UserError
from lmarch.lock import alone_in
from lmarch.provenance import TRAINING, code_digest, machine_record
from lmarch.training.checkpoints import saved_steps
from lmarch.training.history import differences, require_same_history
from lmarch.training.metrics import read_metrics

ADVICE = "choose another --workdir"


@contextlib.contextmanager
def opened(workdir: Path, config: Config) -> Iterator[None]:
    """Create the folder, or join a run there whose steps so far this config would have done as well, and keep others out.

    The config is written by `write_config`, when nothing is left to refuse: a mistake does not claim a folder.

    Raises:
      UserError: the folder cannot be written, another process is training in it, or it holds another run.
    """
    with writing(workdir, ADVICE), tempfile.TemporaryFile(dir=workdir):
        pass
    with alone_in(workdir, "wait until it ends, stop it, or choose another --workdir"):
        if (workdir / "config.json").exists():
            require_same_history(read_config(workdir), config, max(saved_steps(workdir), default=0), workdir, ADVICE)
        yield


def with_folder(config: Config, workdir: Path | None = None) -> Config:
    """The config with the folder that relative names of its files begin at: the one of when this run began, or this one.

    Args:
      workdir: of the run; none: it has not begun.
    """
    folder = config.data.folder or str(Path.cwd())
    if config.data.folder is None and workdir is not None and (workdir / "config.json").exists():
        folder = read_config(workdir).data.folder or folder
    return dataclasses.replace(config, data=dataclasses.replace(config.data, folder=folder))


def write_config(workdir: Path, config: Config) -> None:
    """Write the config, and when the run begins a copy of the tokenizer's file, if it names one."""
    kept = _own_tokenizer(workdir, config)
    if kept is not None and not (workdir / "config.json").exists():
        with replacing(kept) as partial:
            partial.write_bytes(tokenizer_file(config.data).read_bytes())
    write_json(workdir / "config.json", {**config.to_dict(), "fingerprint": config.fingerprint()})


def run_tokenizer(workdir: Path, config: Config) -> Tokenizer:
    """The tokenizer of a run: from its own copy of the file, or from where the config says if it has not begun."""
    kept = _own_tokenizer(workdir, config)
    own = kept is not None and kept.is_file() and (workdir / "config.json").exists()
    return load_tokenizer(str(kept)) if own else tokenizer_of(config.data)


def _own_tokenizer(workdir: Path, config: Config) -> Path | None:
    """Where a run keeps the tokenizer's file; none: its tokenizer is no file."""
    suffix = Path(config.data.tokenizer).suffix
    return workdir / f"tokenizer{suffix}" if suffix else None


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
    before = read_record(workdir)
    return {
        "fingerprint": config.fingerprint(),
        **machine_record(),
        "code": then(trained_by(workdir), code_digest(TRAINING)),
        "command": " ".join(sys.argv),
        **{key: before[key] for key in ("started_from", "branched_from", "ancestors", "changes") if key in before},
    }


def changes(workdir: Path, config: Config) -> dict[str, tuple[Any, Any]]:
    """The fields of what is computed that are not as they were when the run was started or went on last: (before, now)."""
    if not (workdir / "config.json").exists():
        return {}
    return differences(read_config(workdir).meaningful(speed=True), config.meaningful(speed=True))


def ancestors(base: Path) -> list[dict[str, Any]]:
    """Of a run that starts from `base`: what tells the text of that one, and of those before it."""
    record, config = read_record(base), read_config(base)
    here = {"config": config.to_dict(), "rows_fingerprint": record.get("rows_fingerprint")}
    return [here, *record.get("ancestors", [])]


def read_record(workdir: Path) -> dict[str, Any]:
    """The record of a run, `run.json`; empty where there is none.

    Raises:
      UserError: it is damaged.
    """
    file = workdir / "run.json"
    if not file.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(file.read_text())
        if isinstance(record, dict):
            return record
        reason: object = f"it holds a {type(record).__name__}"
    except (OSError, ValueError) as error:
        reason = error
    raise UserError(
        f"{file} is not the record of a run ({reason}): was it edited or cut off? Move it away to go on without it"
    )


def trained_by(workdir: Path) -> str | None:
    """The digest of the code that trained a run, or of each that did, one after the other; None where there is no run."""
    record = read_record(workdir)
    return record.get("code", "unknown code") if record else None


def then(before: str | None, code: str) -> str:
    """The digests of a run's code, one more at the end if that is another one."""
    return code if before is None or before.split(" then ")[-1] == code else f"{before} then {code}"


def complete_record(folder: Path, config: Config) -> None:
    """Write how a run ended that was killed between its last save and the end of its record."""
    record = read_record(folder)
    if record.get("status") == "finished":
        return
    validated = [e for e in read_metrics(folder) if e.get("validation_bits_per_byte") is not None]
    ended = {
        "status": "finished",
        "steps": config.total_steps,
        "trained_tokens": config.total_steps * config.tokens_per_step,
        "validation_bits_per_byte": validated[-1]["validation_bits_per_byte"] if validated else None,
    }
    write_json(folder / "run.json", {**record, **ended})
