"""What is published: results of test text, of settings that were frozen before any of it was read, by code that is committed.

`lmarch reproduce NAME --freeze` notes the settings and the commit in `configs/experiments/frozen.json`, which is then
committed. `--final` reads test text and notes that it did; `--publish` stores what came of it in `results/`, from which
docs/results.md is made.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.data.documents import Split
from lmarch.durable import append_json, read_json_lines, replacing, write_json, write_text
from lmarch.errors import UserError
from lmarch.evaluation.rows import read_rows
from lmarch.experiments.definition import Experiment, load_experiment
from lmarch.provenance import git_commit, now
from lmarch.shipped import EXPERIMENTS, RESULTS, checkout

FROZEN = "frozen.json"
READINGS = "test_readings.jsonl"


@dataclasses.dataclass(frozen=True)
class Stored:
    """What `results/` holds of a finished experiment."""

    record: dict[str, Any]
    verdicts: list[dict[str, Any]]
    results: list[dict[str, Any]]


def stored_results() -> dict[tuple[str, str], Stored]:
    """By name and tier, in order of the names."""
    found = {}
    for folder in sorted(file.parent for file in RESULTS.glob("*/record.json")):
        record, verdicts = (json.loads((folder / f"{name}.json").read_text()) for name in ("record", "verdicts"))
        tried = load_experiment(record["name"], record["tier"]).tried  # the latest that is known
        record["tried"] = [dataclasses.asdict(one) for one in tried]
        found[record["name"], record["tier"]] = Stored(record, verdicts, read_rows(folder / "results.jsonl"))
    return found


def folder_of(name: str, tier: str, split: Split, workdir: Path) -> Path:
    """Where the comparison and the verdicts go."""
    return workdir / (f"{name}-{tier}" if split == "validation" else f"{name}-{tier}-{split}")


def freeze(name: str, tier: str, experiment: Experiment) -> Path:
    """Notes the settings as they are at this commit; returns the file, which is to be committed.

    Raises:
      UserError: no checkout, or one with changes.
    """
    commit = clean_commit("--freeze")
    file = EXPERIMENTS / FROZEN
    frozen, settings = _frozen(), experiment.settings
    if (
        frozen.get(f"{name}-{tier}", {}).get("settings") != settings
    ):  # the first time that they were these is what counts
        frozen[f"{name}-{tier}"] = {"commit": commit, "settings": settings, "date": now()}
    write_json(file, dict(sorted(frozen.items())))
    return file


def require_publishable(name: str, tier: str, experiment: Experiment, workdir: Path, texts: Sequence[str]) -> None:
    """Raises UserError, which says what is to be done, for what must not be published; before anything is trained.

    Args:
      texts: names of what is read.
    """
    clean_commit("--publish")
    frozen = _frozen().get(f"{name}-{tier}")
    if frozen is None:
        raise UserError(
            f"{name} ({tier}) is not frozen: lmarch reproduce {name} --tier={tier} --freeze, and commit that first"
        )
    if frozen["settings"] != experiment.settings:
        raise UserError(
            f"{name} ({tier}) was frozen at {frozen['commit'][:12]} with other settings ({frozen['settings']}, now "
            f"{experiment.settings}): bring those back; results of changed settings need test text that was not read before"
        )
    read = [RESULTS / f"{name}-{tier}" / READINGS, folder_of(name, tier, "test", workdir) / READINGS]
    for reading in (reading for file in read for reading in read_json_lines(file)):
        same = not set(texts).isdisjoint(reading["texts"])
        if same and (reading["settings"] != frozen["settings"] or reading["date"] < frozen["date"]):
            raise UserError(
                f"test text of {name} ({tier}) was read on {reading['date']} with settings {reading['settings']}, before they "
                f"were frozen on {frozen['date']}: what is chosen afterwards is chosen on it; take text that was not read"
            )


def note_reading(folder: Path, experiment: Experiment, texts: Sequence[str], console: Console) -> None:
    """Keeps that test text is scored, when, by which code and with which settings."""
    reading = {"date": now(), "git_commit": git_commit(), "settings": experiment.settings, "texts": list(texts)}
    append_json(folder / READINGS, reading)
    console.print(f"test text is read, which is noted in {folder / READINGS}")


def publish(name: str, tier: str, workdir: Path) -> Path:
    """Copies what tables and figures are drawn from into `results/NAME-TIER` of a checkout.

    Readings of test text are added to those that stand there: they may be of another workdir.
    """
    folder, source = RESULTS / f"{name}-{tier}", folder_of(name, tier, "test", workdir)
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("results.jsonl", "verdicts.json", "models.json", "record.json"):
        with replacing(folder / file) as partial:
            shutil.copyfile(source / file, partial)
    files = [place / READINGS for place in (folder, source)]
    lines = dict.fromkeys(line for file in files if file.is_file() for line in file.read_text().splitlines())
    write_text(folder / READINGS, "".join(f"{line}\n" for line in lines))
    return folder


def clean_commit(flag: str) -> str:
    """That of the checkout, which `flag` needs without changes."""
    commit = git_commit()
    if checkout() is None or commit is None:
        raise UserError(f"{flag} needs a checkout of lmarch under git, and this lmarch is installed: leave it out")
    if "+" in commit:
        raise UserError(f"{flag} needs a work tree without changes: commit them first (git status)")
    return commit


def _frozen() -> dict[str, dict[str, str]]:
    file = EXPERIMENTS / FROZEN
    frozen: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.is_file() else {}
    return frozen
