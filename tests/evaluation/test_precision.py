"""As many windows as a stated precision takes."""

import math
from pathlib import Path

import initialised
import pytest
import tiny
from measured import evaluate, rows_of

from lmarch.evaluation.precision import widest, windows_needed
from lmarch.evaluation.statistics import Interval


def test_the_widest_undecided_interval_counts() -> None:
    narrow, wide, decided = (0.1, Interval(0.0, 0.2)), (0.2, Interval(-0.1, 0.5)), (9.0, Interval(8.5, 9.5))
    broken = (math.inf, Interval(-math.inf, math.inf))
    assert widest([narrow, wide, decided, broken]) == pytest.approx(0.3)
    assert widest([decided, broken]) == 0


def test_half_the_width_takes_four_times_the_windows() -> None:
    assert windows_needed(0.04, 64, 0.02) == 256
    assert windows_needed(0.02, 64, 0.02) == 64


@pytest.mark.slow
def test_windows_are_added_until_gains_are_as_precise_as_asked(tmp_path: Path, capsys) -> None:
    corpus = tiny.write_corpus(tmp_path / "long", documents=120, words=1500)
    model = initialised.model(tiny.config(tmp_path, data__corpus=corpus), tmp_path / "run")
    chosen = [("eval.suite", "smoke"), ("eval.lengths", "16,32,64"), ("eval.methods", "rope"), ("eval.parts", "paired")]

    def halves() -> list[float]:
        return [(row["gain_high"] - row["gain_low"]) / 2 for row in rows_of(model) if row["length"] != 32]

    assert evaluate(model, chosen) == 0
    first, windows = max(halves()), rows_of(model)[0]["n_windows"]
    assert evaluate(model, [*chosen, ("eval.precision", str(first / 1.5))]) == 0
    assert "takes about" in capsys.readouterr().out
    assert rows_of(model)[0]["n_windows"] >= 2 * windows
    assert max(halves()) < first / 1.2
    assert evaluate(model, [*chosen, ("eval.precision", str(first * 2))]) == 0
    assert rows_of(model)[0]["n_windows"] == windows
