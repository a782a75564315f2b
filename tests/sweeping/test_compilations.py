"""A worker's trials share what they compile."""

from pathlib import Path

import compilations
import pytest
import tiny

from lmarch.sweeping import worker
from lmarch.sweeping.plan import Plan
from lmarch.sweeping.space import grid
from lmarch.sweeping.study import Study


@pytest.mark.slow
def test_a_sweep_of_eight_learning_rates_compiles_its_step_once_a_worker(tmp_path: Path) -> None:
    """Its caches are cleared between trials, and what is compiled in a moment is not kept on disk."""
    changes = {"train__steps": 2, "model__num_layers": 1, "train__checkpoint_steps": 2}
    rates = tuple(1e-3 * 1.5**power for power in range(8))
    space = grid({"train.learning_rate": rates})
    plan = Plan(tiny.config(tmp_path, **changes).to_dict(), space, pruner="none", suite=None)
    Study.open(tmp_path / "s", plan)
    with compilations.counted() as names:
        assert worker.work(tmp_path / "s") == 0
    trials = Study(tmp_path / "s").trials()
    assert [one.state for one in trials] == ["finished"] * 8
    assert len({one.record["value"] for one in trials}) == 8  # each learned at its own rate
    assert names.count("jit(train_step)") == 1, names
