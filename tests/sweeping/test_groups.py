"""Which trials are given up, which group is selected, and what the report says of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_studies import ROWS, plan_of, programs_are_kept  # noqa: F401 (a fixture)

from lmarch.errors import UserError
from lmarch.sweeping import worker
from lmarch.sweeping.collecting import collect
from lmarch.sweeping.report import free_fields
from lmarch.sweeping.space import grid, product, seeds
from lmarch.sweeping.study import Study
from lmarch.sweeping.summary import Group, groups_of, mean_over_seeds, on_different_text, selected
from lmarch.training.checkpoints import saved_steps
from lmarch.training.metrics import read_metrics


def test_fields_that_go_together_are_one_in_a_map(tmp_path: Path) -> None:
    tried = [{"length": n, "rows": 64 // n, "window": w, "rate": r} for n in (4, 8) for w in (1, 2) for r in (1, 2)]
    assert free_fields(tried, ["rate", "length", "rows", "window"]) == ["rate", "length", "window"]


def test_trials_that_read_different_text_are_not_ranked() -> None:
    """A sweep over corpora, tokenizers or row lengths: the smaller number may be the easier text."""

    def group(value: float, text: str) -> Group:
        return Group(
            {"value": value}, [SimpleNamespace(state="finished", record={"value": value, "validation_text": text})]
        )

    assert selected([group(2.0, "a"), group(1.9, "a")]).point == {"value": 1.9}
    assert selected([group(2.0, "a"), group(1.9, "b")]) is None
    assert on_different_text([group(2.0, "a"), group(1.9, "b")])


def test_an_interval_over_seeds_is_students() -> None:
    """Of 1, 2, 3: a standard error of 1 / sqrt(3), times 4.3027, beyond which lie 2.5 % on either side at two degrees."""
    made = mean_over_seeds([1.0, 2.0, 3.0])
    assert made is not None
    assert made.value == 2
    assert (made.interval.low, made.interval.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)


@pytest.mark.slow
def test_the_median_pruner_gives_a_hopeless_trial_up(tmp_path: Path) -> None:
    space = grid({"train.learning_rate": (1e-2, 9e-3, 8e-3, 7e-3, 1e-7)})
    plan = plan_of(tmp_path, space, pruner="median", train__eval_steps=2, train__steps=12)
    study = Study.open(tmp_path / "s", plan)
    assert worker.work(tmp_path / "s") == 0
    *others, hopeless = study.trials()
    assert [one.state for one in others] == ["finished"] * 4
    assert hopeless.state == "pruned"
    last = max(entry["step"] for entry in read_metrics(hopeless.folder))
    assert 2 <= last < 12
    assert saved_steps(hopeless.folder) == [last]  # nothing that was trained is lost
    assert json.loads((hopeless.folder / "run.json").read_text())["status"] == "given up"
    best = selected(groups_of(study.trials()))
    assert best is not None
    assert hopeless not in best.trials


@pytest.mark.slow
def test_hyperband_gives_hopeless_trials_up(tmp_path: Path) -> None:
    good, hopeless = (1e-2,), (6e-7, 5e-7, 4e-7, 3e-7, 2e-7, 1e-7)
    space = grid({"train.learning_rate": (*good, *hopeless)})
    plan = plan_of(tmp_path, space, pruner="hyperband", train__eval_steps=2, train__steps=12)
    study = Study.open(tmp_path / "s", plan)
    assert worker.work(tmp_path / "s") == 0
    first, *others = [one.state for one in study.trials()]
    assert first == "finished"
    # Two brackets, after 2 and after 6 steps; who comes first in one has nobody to be compared with.
    assert others.count("pruned") >= len(hopeless) - 1
    best = selected(groups_of(study.trials()))
    assert best is not None
    assert best.point == {"train.learning_rate": 1e-2}


def test_a_pruner_needs_validation_before_the_end(tmp_path: Path) -> None:
    for pruner in ("median", "hyperband"):
        with pytest.raises(UserError, match=f"--pruner={pruner} needs config.train.eval_steps"):
            plan_of(tmp_path, ROWS, pruner=pruner)


@pytest.mark.slow
def test_selection_is_by_validation_and_extrapolation_stands_beside_it(tmp_path: Path) -> None:
    changes = dict(eval__lengths=(16, 32, 64), eval__targets=8)
    space = product(grid({"train.learning_rate": (1e-6, 1e-2)}), seeds(0, 1))
    study = Study.open(tmp_path / "s", plan_of(tmp_path, space, suite="smoke", **changes))
    worker.work(tmp_path / "s")
    page = collect(tmp_path / "s").read_text()
    chosen = json.loads((tmp_path / "s" / "selected.json").read_text())
    assert chosen["selected"]["point"] == {"train.learning_rate": 1e-2}
    assert chosen["rule"].startswith("lowest bits per byte of validation text")
    values = [one.record["value"] for one in study.trials() if one.point["train.learning_rate"] == 1e-2]
    assert chosen["selected"]["validation_bits_per_byte"] == pytest.approx(sum(values) / 2)
    rows = json.loads((tmp_path / "s" / "trials.json").read_text())
    assert len(rows) == 4
    assert all(row["bits per byte at 2 L"] > 0 and row["bits per byte at 1 L"] > 0 for row in rows)
    assert (tmp_path / "s" / "trials.csv").read_text().startswith("trial,state,train.learning_rate,seed,validation")
    assert "Selected: train.learning_rate=0.01" in page
    assert "(mean of 2 seeds)" in page
    assert "at 2 L" in page
    assert all((tmp_path / "s" / f"{name}.svg").exists() for name in ("slices", "lengths"))


@pytest.mark.slow
def test_a_group_with_an_unfinished_seed_is_not_selected(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(
        tmp_path / "s", plan_of(tmp_path, product(grid({"train.learning_rate": (1e-2, 1e-6)}), seeds(0, 1)))
    )
    real = worker.train

    def fails(config, folder, go_on):
        if config.train.learning_rate == 1e-2 and config.model.seed == 1:
            raise UserError("loss nan")
        return real(config, folder, go_on)

    monkeypatch.setattr(worker, "train", fails)
    worker.work(tmp_path / "s")
    best = selected(groups_of(study.trials()))
    assert best is not None
    assert best.point == {"train.learning_rate": 1e-6}
