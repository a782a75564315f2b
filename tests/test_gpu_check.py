"""The GPU check in its tiny size: every part leaves rows, and whatever goes wrong is one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_check import attention, resume, run, training
from benchmarks.gpu_check.plan import GPU, TINY
from benchmarks.gpu_check.record import Record
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition

FACTS = {"date", "device_kind", "device_count", "driver", "versions", "git_commit", "command", "seconds", "plan"}


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("check") / "check.json"
    assert run.check(TINY, out, workers=1) == 0
    return json.loads(out.read_text())


@pytest.mark.slow
def test_every_part_has_rows_and_nothing_fails(checked) -> None:
    assert {row["part"] for row in checked["rows"]} == set(run.PARTS)
    assert [row for row in checked["rows"] if row["status"] == "failed"] == []
    assert checked["finished"]


@pytest.mark.slow
def test_the_record_says_where_when_and_with_what(checked) -> None:
    assert checked.keys() >= FACTS
    assert {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"} <= checked["versions"].keys()
    assert all({"part", "name", "status", "seconds"} <= row.keys() for row in checked["rows"])
    assert all(("figures" in row) == (row["status"] == "ok") for row in checked["rows"])


@pytest.mark.slow
def test_rows_hold_what_they_promise(checked) -> None:
    figures = {
        part: [row["figures"] for row in checked["rows"] if row["part"] == part and "figures" in row]
        for part in run.PARTS
    }
    assert all({"relative_errors", "absolute_errors", "tolerance"} <= row.keys() for row in figures["attention"])
    timed = [row for row in figures["training"] if "step_ms" in row]
    assert len(timed) == len(TINY.steps)
    assert all({"tokens_per_second", "mfu", "compile_seconds", "memory_gib"} <= row.keys() for row in timed)
    assert all({"tokens_per_second", "memory_gib"} <= row.keys() for row in figures["prefill"])
    assert figures["resume"][0]["bitwise"]


@pytest.mark.slow
def test_what_is_refused_is_a_row_that_says_why(checked) -> None:
    errors = {row["name"]: row["error"] for row in checked["rows"] if row["status"] == "skipped"}
    assert "serves unpacked rows" in errors["rerope packed, fused, float32"]
    assert "serves unpacked rows" in errors["fused"]


def test_the_oracle_notices_a_wrong_distance(tmp_path: Path, monkeypatch) -> None:
    wrong = attention.Case("rope", lambda t, s, w: t - s + (t - s > 20))
    monkeypatch.setitem(attention.CASES, "rope", wrong)
    record = Record(tmp_path / "check.json", seconds=60, workers=1)
    monkeypatch.setattr(attention, "IMPLEMENTATIONS", ("dense",))
    plan = dataclasses.replace(TINY, attention=dataclasses.replace(TINY.attention, cases=("rope",)))
    attention.begin(record, plan)()
    assert [row["status"] for row in record.rows] == ["failed"]


def test_a_nan_in_any_array_is_no_agreement() -> None:
    ours = [np.ones((2, 3)) for _ in attention.ARRAYS]
    float32 = attention.ARITHMETIC["float32"]
    assert attention._compared(TINY.attention, ours, ours, float32)["ok"]
    for n in range(len(ours)):
        broken = [x if i != n else x * np.nan for i, x in enumerate(ours)]
        assert not attention._compared(TINY.attention, broken, ours, float32)["ok"]


def test_what_raises_is_a_row_and_the_next_one_is_measured(tmp_path: Path) -> None:
    def breaks() -> dict:
        raise ValueError("no such\nthing")

    def refuses() -> dict:
        raise UserError("not here")

    record = Record(tmp_path / "check.json", seconds=60)
    for measure in (breaks, refuses, lambda: {"ok": False}, lambda: {"figure": 1.0}):
        record.measure("part", "name", measure)
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["failed", "skipped", "failed", "ok"]
    assert rows[0]["error"] == "ValueError: no such thing"
    assert record.finish() == 0


def test_a_part_that_breaks_ends_no_other(tmp_path: Path, monkeypatch) -> None:
    def breaks() -> None:
        raise RuntimeError("out of memory")

    def begin(part: str, record: Record, plan: Any) -> Any:
        if part == "attention":
            breaks()
        return breaks if part == "training" else lambda: record.measure(part, "name", dict)

    monkeypatch.setattr(run, "begin", begin)
    assert run.check(TINY, tmp_path / "check.json") == 0
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert {row["part"]: row["status"] for row in rows} == {
        "attention": "failed",
        "training": "failed",
        "resume": "ok",
        "prefill": "ok",
    }


def test_nothing_begins_after_its_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "begin", lambda *_: pytest.fail("begun"))
    assert run.check(TINY, tmp_path / "check.json", seconds=1e-9) == 1
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert [(row["status"], row["error"]) for row in rows] == [("skipped", "time")] * len(run.PARTS)


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_in_a_process_whose_sums_repeat(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    figures = resume.repeating(TINY.resume, seconds=200)
    assert figures["ok"]
    assert figures["of_the_same_run_again"] == 0


def test_a_step_can_read_rows_without_positions_or_segments() -> None:
    step = dataclasses.replace(TINY.steps[0], attention="auto", plain=True)
    assert training.lower(TINY.model, step).in_avals[0][1].tokens.shape[1] == step.length


def test_the_model_that_is_timed_has_the_size_of_gpt_2() -> None:
    config = training.config_of(GPU.model, GPU.steps[0])
    assert 120e6 < ModelDefinition(config.model, GPU.model.vocab_size).num_parameters < 128e6
