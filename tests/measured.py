"""Evaluations of which the rows are looked at, and no report: drawing one takes longer than measuring a tiny model."""

from collections.abc import Sequence
from typing import Any

from lmarch.evaluation import run
from lmarch.evaluation.rows import read_rows
from lmarch.loading import Model


def evaluate(model: Model, overrides: Sequence[tuple[str, str]]) -> int:
    """The exit status."""
    return run.evaluate(model, overrides).status


def rows_of(model: Model, suite: str = "smoke") -> list[dict[str, Any]]:
    """What it wrote."""
    return read_rows(model.workdir / "eval" / suite / "results.jsonl")
