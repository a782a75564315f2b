"""Result rows as other programs read them."""

import json
from pathlib import Path

import pytest

import lmarch
from lmarch.errors import UserError
from lmarch.evaluation.rows import FIELDS, finite, read_rows, write_rows

ROW = {"task": "paired", "metric": "bpb", "value": 1.5, "method": "rope", "length": 64, "n_nonfinite": 0}


def test_a_file_holds_no_number_that_json_has_not(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    write_rows(file, [ROW, {**ROW, "value": float("inf"), "seed_differences": [float("nan"), 1.0], "n_nonfinite": 3}])
    json.loads(file.read_text().splitlines()[1], parse_constant=lambda name: pytest.fail(name))
    assert read_rows(file)[1] == {**ROW, "value": None, "seed_differences": [None, 1.0], "n_nonfinite": 3}
    assert finite({"a": (float("-inf"), {"b": 2})}) == {"a": [None, {"b": 2}]}


def test_a_field_that_nobody_has_described_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not in ResultRow: valeu"):
        write_rows(tmp_path / "results.jsonl", [{**ROW, "valeu": 1.0}])


def test_results_of_many_evaluations_are_one_table(tmp_path: Path) -> None:
    for run, method in (("a", "rope"), ("b", "ntk")):
        folder = tmp_path / run / "eval" / "cpu"
        folder.mkdir(parents=True)
        write_rows(folder / "results.jsonl", [{**ROW, "method": method}])
    for pattern in ("*/eval", "*/eval/cpu", "**/cpu"):
        table = lmarch.results(f"{tmp_path}/{pattern}")
        assert table["method"].tolist() == ["rope", "ntk"]
        assert table.columns.tolist() == ["folder", *(name for name in FIELDS if name in ROW)]
    assert lmarch.results(f"{tmp_path}/a/eval")["value"].mean() == 1.5
    with pytest.raises(UserError, match="no results in"):
        lmarch.results(f"{tmp_path}/nothing")
