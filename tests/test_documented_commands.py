"""Every command line that a user can read is one that a user can type: README, docs, help and docstrings.

Each is taken from there and carried out up to where the work would begin: flags and configs are read and checked in full.
"""

import contextlib
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, call
from rich.console import Console

from lmarch.config_files import load_config
from lmarch.evaluation.asked import ask
from lmarch.loading import untrained

FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").rglob("*.py")),
    *sorted((ROOT / "lmarch" / "commands").glob("*.py")),
]
PROGRAM = re.compile(r"python ([\w/]+\.py)")
VERBS = "train|eval|generate|sweep|reproduce|show"
WRITTEN = re.compile(rf"(?:^ *|`|, then )lmarch ((?:{VERBS}) [^`\n#]*?)(?=`|$|  |, then|\))", re.MULTILINE)
# Words that stand for what the reader has.
MEANT = {"NAME": "zero_shot_positions", "FILE.py": "configs/demo.py", "FOLDER": "runs/a", "METHOD": "rerope:window=64"}


def lines_of(file: Path) -> Iterator[str]:
    """The command lines in a file; what a line that ends in a comma or a bracket goes on with is taken along."""
    text = re.sub(r"\n +(?=\[--)", " ", file.read_text(encoding="utf-8"))
    for found in WRITTEN.finditer(text):
        yield from spelled_out(found[1].strip().rstrip("."))


def spelled_out(line: str) -> Iterator[str]:
    """A line without what is in brackets, and with each of that; once for each of the alternatives `a|b`.

    `...` stands for more of the same. What is in brackets within brackets goes with what is around it.
    """
    line = re.sub(r"(\S)\[(:[^\[\]]*)\]", r"\1\2", line).replace("...", "").replace("…", "")
    for word, meaning in MEANT.items():
        line = re.sub(rf"\b{re.escape(word)}\b", meaning, line)
    groups = re.findall(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", line)
    base = re.sub(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]", "", line).strip()
    yield from alternatives(base)
    for group in filter(str.strip, groups):
        for inner in spelled_out(group):
            yield from (f"{first} {inner}" for first in alternatives(base))


def alternatives(line: str) -> Iterator[str]:
    """`--suite=smoke|cpu` once with each; where several words have some, the first of each, the second of each, ..."""
    words = [re.fullmatch(r"(.*=)?(.*)", word) for word in shlex.split(line)]
    choices = [[f"{word[1] or ''}{one}" for one in word[2].split("|")] for word in words if word]
    for number in range(max(map(len, choices))):
        yield shlex.join(choice[min(number, len(choice) - 1)] for choice in choices)


LINES = list(dict.fromkeys(itertools.chain.from_iterable(map(lines_of, FILES))))
# What is written of a command without being a line to type: how to name a flag.
NO_LINES = (
    "sweep --config --space",
    "eval --methods",
    "eval --windows=",
    "eval --average",
    "eval --final",
    "train --help",
)


class Begins(Exception):
    """Where the work would begin."""


@pytest.fixture
def stops(monkeypatch, line: str) -> None:
    """Commands stop where they would train, measure or draw; an evaluation asks a model without weights."""

    def begins(*given: Any, **named: Any) -> Any:
        raise Begins

    def asked(model: Any, overrides: Any) -> int:
        ask(model, overrides, Console(quiet=True))
        raise Begins

    configs = {"prefix": "prefix_decoder:size=tiny", "encdec": "encoder_decoder:size=tiny"}

    def loaded(workdir: Path, **named: Any) -> Any:
        plain = "prefix_decoder:size=tiny" if "--axes" in line else "causal_decoder:size=tiny"
        name = configs.get(workdir.name, plain)
        return untrained(load_config(name, [("train.average_decay", "0.9")]))

    # What these modules take from others they take now: imported while names are replaced, they would keep what replaces them.
    for room in ("sweeping.commands", "experiments.reproduce", "experiments.publishing", "reporting.report"):
        importlib.import_module(f"lmarch.{room}")
    monkeypatch.chdir(ROOT)
    for place in (
        *("training.loop.train", "experiments.reproduce.reproduce", "experiments.publishing.clean_commit"),
        *(
            "experiments.publishing.freeze",
            "sweeping.commands.Study.open",
            "sweeping.commands.collect",
            "loading.Model.generate",
        ),
        *("reporting.figures.save_figure", "sweeping.commands.read_plan", "sweeping.study.read_plan"),
    ):
        monkeypatch.setattr(f"lmarch.{place}", begins)
    monkeypatch.setattr("lmarch.loading.load", loaded)
    monkeypatch.setattr("lmarch.reporting.report.evaluate_and_report", asked)


def test_there_are_lines_of_every_command() -> None:
    assert {line.split()[0] for line in LINES} == {"train", "eval", "generate", "sweep", "reproduce", "show"}
    assert len(LINES) > 60
    assert sum("--axes=prefix,continuation,both" in line for line in LINES) >= 1


def test_every_documented_program_is_there() -> None:
    named = {name for file in FILES for name in PROGRAM.findall(file.read_text(encoding="utf-8"))}
    assert "examples/minimal_decoder.py" in named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(NO_LINES)])
def test_a_documented_line_is_one_that_can_be_typed(line: str, stops: None) -> None:
    verb, *arguments = shlex.split(line)
    if verb in ("train", "eval", "generate", "sweep") and "--workdir" not in line:  # said once, above a list of lines
        arguments.append("--workdir=runs/a")
    with contextlib.suppress(Begins):
        assert call(verb, *arguments) == 0
