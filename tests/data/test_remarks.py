"""What is left out of a text is said by the run, and stands in its record."""

import json

import pytest
import tiny

from lmarch.training.loop import train


@pytest.mark.slow
def test_a_run_says_and_records_what_its_text_lacks(tmp_path, capsys):
    for n in range(6):
        (tmp_path / f"{n}.txt").write_text("" if n == 3 else f"text {n} " * 200)
    train(tiny.config(tmp_path, data__corpus=f"text:{tmp_path}/*.txt", train__steps=1), tmp_path / "run")
    remarks = json.loads((tmp_path / "run" / "run.json").read_text())["remarks"]
    assert remarks == [
        f"text:{tmp_path}/*.txt: 1 {split} documents without text are left out" for split in ("train", "validation")
    ]
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"note: {remark}" in said for remark in remarks)
