"""Evaluations of which the rows are looked at, and no report: drawing one takes longer than measuring a tiny model."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from lmarch.evaluation import run
from lmarch.loading import Model


def evaluate(model: Model, overrides: Sequence[tuple[str, str]]) -> int:
    """As `lmarch.evaluation.run.evaluate`, but for the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmarch.reporting.report.write_everything", lambda *given: None)
        return run.evaluate(model, overrides)


def rows_of(model: Model, suite: str = "smoke") -> list[dict[str, Any]]:
    """What it wrote."""
    return [json.loads(line) for line in (model.workdir / "eval" / suite / "results.jsonl").read_text().splitlines()]
