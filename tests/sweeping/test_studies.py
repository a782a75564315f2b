"""What a study does with its trials, in one process."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny
from commands import call

from lmarch.errors import UserError
from lmarch.lock import Lock
from lmarch.sweeping import worker
from lmarch.sweeping.collecting import collect
from lmarch.sweeping.plan import Plan
from lmarch.sweeping.space import Choice, LogUniform, Space, grid, listed, product, seeds, tpe
from lmarch.sweeping.study import Study
from lmarch.sweeping.summary import groups_of, selected
from lmarch.training.checkpoints import saved_steps
from lmarch.training.loop import train

# Trials that differ in nothing that is compiled: one program serves them all.
ROWS = grid({"train.eval_rows": (8, 16)})
ONE = grid({"train.eval_rows": (8,)})


@pytest.fixture(autouse=True)
def programs_are_kept(monkeypatch) -> None:
    """A worker forgets what it compiled after each trial; here the next one needs the same."""
    monkeypatch.setattr(worker.jax, "clear_caches", lambda: None)


def plan_of(folder: Path, space: Space, pruner: str = "none", suite: str | None = None, **changes) -> Plan:
    made = Plan(tiny.config(folder, **changes).to_dict(), space, pruner=pruner, suite=suite)
    made.check()
    return made


def states(workdir: Path) -> list[str]:
    return [one.state for one in Study(workdir).trials()]


def test_every_trial_is_a_run_of_its_own_named_by_its_fingerprint(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, product(ROWS, seeds(0, 1)))
    study = Study.open(tmp_path / "s", plan)
    assert worker.work(tmp_path / "s") == 0
    trials = study.trials()
    assert [one.state for one in trials] == ["finished"] * 4
    for one in trials:
        config = plan.config(one.point)
        assert one.folder == tmp_path / "s" / "trials" / config.fingerprint()
        assert config.train.eval_rows == one.point["train.eval_rows"]
        assert (config.model.seed, config.data.seed) == (one.point["seed"], 1000 + one.point["seed"])
        run = json.loads((one.folder / "run.json").read_text())
        assert one.record["value"] == run["validation_bits_per_byte"]


def test_a_sweep_that_is_opened_again_plans_nothing_twice(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ROWS)
    claims = []
    for _ in range(3):
        study = Study.open(tmp_path / "s", plan)
        assert sorted(one.user_attrs["number"] for one in study._trials()) == [0, 1]
        claims += [study.take()]
    assert states(tmp_path / "s") == ["running"] * 2
    assert [claim and claim.number for claim in claims] == [0, 1, None]


def test_a_sweep_whose_planning_was_cut_off_is_planned_to_its_end(tmp_path: Path, monkeypatch) -> None:
    plan = plan_of(tmp_path, product(ROWS, seeds(0, 1)))
    enqueue = Study._enqueue

    def dies(self, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        enqueue(self, number)

    monkeypatch.setattr(Study, "_enqueue", dies)
    with pytest.raises(KeyboardInterrupt):
        Study.open(tmp_path / "s", plan)
    monkeypatch.setattr(Study, "_enqueue", enqueue)
    study = Study.open(tmp_path / "s", plan)
    numbers = [one.user_attrs["number"] for one in study._trials()]
    assert sorted(numbers) == [0, 1, 2, 3]


def test_a_folder_with_another_sweep_is_refused(tmp_path: Path) -> None:
    Study.open(tmp_path / "s", plan_of(tmp_path, ROWS))
    for other in (plan_of(tmp_path, ONE), plan_of(tmp_path, ROWS, suite="smoke")):
        with pytest.raises(UserError, match="holds another sweep"):
            Study.open(tmp_path / "s", other)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--suite=cpu", "--suite=cpu: the sweep in .* began with none; leave --suite out"),
        ("--pruner=median", "--pruner=median: the sweep in .* began with none; leave --pruner out"),
        ("--storage=postgresql://me@127.0.0.1:9/none", "keeps its study in a file: leave --storage out"),
    ],
)
def test_a_sweep_that_is_joined_stays_what_it_is(tmp_path: Path, flag: str, words: str) -> None:
    Study.open(tmp_path / "s", plan_of(tmp_path, ROWS))
    with pytest.raises(UserError, match=words):
        call("sweep", f"--workdir={tmp_path / 's'}", flag)


def test_a_trial_is_taken_by_one_only_and_taken_over_when_its_lock_is_free(tmp_path: Path) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ROWS))
    first, second = study.take(), Study(tmp_path / "s").take()
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (0, 1)
    assert study.take() is None
    assert states(tmp_path / "s") == ["running", "running"]
    first.lock.release()  # what the system does when a process dies
    assert states(tmp_path / "s") == ["interrupted", "running"]
    again = study.take()
    assert again is not None
    assert (again.number, again.point, again.folder) == (0, first.point, first.folder)


def test_looking_at_trials_never_takes_one_from_a_worker(tmp_path: Path, monkeypatch) -> None:
    """A look tries locks; it waits for its turn, so that a trial which is about to begin is not taken for another's."""
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ROWS))
    held = []
    described = Study._described

    def noting(self, one):
        held.append(not Lock(tmp_path / "s" / "lock").acquire(wait=False))
        return described(self, one)

    monkeypatch.setattr(Study, "_described", noting)
    study.trials()
    assert held == [True, True]


def test_a_trial_that_was_left_before_its_draw_was_noted_is_drawn_again(tmp_path: Path, monkeypatch) -> None:
    space = tpe({"train.learning_rate": LogUniform(1e-3, 1e-2)}, trials=2)
    study = Study.open(tmp_path / "s", plan_of(tmp_path, space))

    def dies(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "config", dies)
        with pytest.raises(KeyboardInterrupt):
            study.take()
    assert worker.work(tmp_path / "s") == 0
    assert states(tmp_path / "s") == ["finished"] * 2


def test_what_was_trained_before_the_study_heard_of_it_is_not_trained_again(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ONE))
    with monkeypatch.context() as patch:

        def dies(self, claim) -> None:
            claim.lock.release()
            raise KeyboardInterrupt

        patch.setattr(Study, "tell", dies)
        with pytest.raises(KeyboardInterrupt):
            worker.work(tmp_path / "s")
    monkeypatch.setattr(worker, "train", None)
    assert worker.work(tmp_path / "s") == 0
    assert [one.record["value"] for one in study.trials()] == [study._study.best_value]


@pytest.mark.slow
def test_a_draw_that_comes_again_is_trained_once_and_counts_once(tmp_path: Path) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, tpe({"train.eval_rows": Choice((8,))}, trials=3)))
    first, second = study.take(), study.take()
    assert first is not None
    assert second is None  # the same run, which the first one is at
    first.lock.release()
    assert worker.work(tmp_path / "s") == 0
    trials = study.trials()
    assert [one.state for one in trials] == ["finished", "repeated", "repeated"]
    assert trials[2].record["reason"] == "the same run as trial 0"
    best = selected(groups_of(trials))
    assert best is not None
    assert len(best.trials) == 1
    collect(tmp_path / "s")


def test_a_sweep_whose_folder_was_renamed_is_the_same_sweep(tmp_path: Path) -> None:
    Study.open(tmp_path / "s", plan_of(tmp_path, ONE))
    worker.work(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "old")
    assert states(tmp_path / "old") == ["finished"]


def test_a_trial_whose_folder_was_deleted_is_trained_again(tmp_path: Path) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ONE))
    claim = study.take()
    assert claim is not None
    claim.lock.release()
    shutil.rmtree(claim.folder)
    assert states(tmp_path / "s") == ["interrupted"]
    assert worker.work(tmp_path / "s") == 0
    assert states(tmp_path / "s") == ["finished"]


def test_a_run_that_was_killed_before_its_record_ended_is_not_the_end_of_its_worker(tmp_path: Path) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ONE))
    claim = study.take()
    assert claim is not None
    whole = train(claim.config, claim.folder)
    file = claim.folder / "run.json"
    record = json.loads(file.read_text())
    file.write_text(
        json.dumps(
            {key: record[key] for key in record if key not in ("steps", "validation_bits_per_byte")}
            | {"status": "running"}
        )
    )
    claim.write(state="running")
    claim.lock.release()
    assert worker.work(tmp_path / "s") == 0
    assert study.trials()[0].record["value"] == whole.validation_bits_per_byte


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    plan = dataclasses.replace(plan_of(tmp_path, ROWS), storage="postgresql://me:secret@127.0.0.1:9/none")
    assert plan.where == "postgresql://me:…@127.0.0.1:9/none"
    with pytest.raises(UserError, match="//me:…@127"):
        Study.open(tmp_path / "s", plan)
    assert not (tmp_path / "s" / "sweep.json").exists()  # the right address can be given yet


@pytest.mark.slow
def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ONE, train__checkpoint_steps=2)
    study = Study.open(tmp_path / "s", plan)
    claim = study.take()
    assert claim is not None
    train(claim.config, claim.folder)
    for step in (6, 8):  # as if it had died after step 4
        for path in (claim.folder / "checkpoints").glob(str(step)):
            path.rename(claim.folder / f"gone-{step}")
    claim.write(state="running")
    claim.lock.release()
    assert max(saved_steps(claim.folder), default=0) < 8
    assert worker.work(tmp_path / "s") == 0
    assert states(tmp_path / "s") == ["finished"]


def test_a_trial_goes_on_under_the_name_it_was_begun_with(tmp_path: Path) -> None:
    """Its base has been trained further since, or another version of lmarch would call it otherwise."""
    longer = dict(train__schedule="constant")
    train(tiny.config(tmp_path, train__steps=1, **longer), tmp_path / "base")
    plan = plan_of(tmp_path, grid({"train.start_from": (str(tmp_path / "base"),)}))
    study = Study.open(tmp_path / "s", plan)
    claim = study.take()
    assert claim is not None
    claim.lock.release()
    train(tiny.config(tmp_path, train__steps=2, **longer), tmp_path / "base")
    assert worker.work(tmp_path / "s") == 0
    (trial,) = study.trials()
    assert (trial.state, trial.folder) == ("finished", claim.folder)
    assert trial.record["value"] is not None


def test_a_study_of_a_thousand_trials_stays_small(tmp_path: Path) -> None:
    """What it keeps of a trial does not grow with the number of trials."""
    space = grid({"train.learning_rate": tuple(1e-3 + n * 1e-6 for n in range(1000))})
    plan = Plan(tiny.config(tmp_path).to_dict(), space, suite=None)
    study = Study.open(tmp_path / "s", plan)
    journal = tmp_path / "s" / "journal.log"
    planned = journal.stat().st_size
    for _ in range(10):
        claim = study.take()
        assert claim is not None
        study.end(claim, "finished", 2.0)
    per_trial = (journal.stat().st_size - planned) / 10
    assert planned + 1000 * per_trial < 3e6


def test_parallel_workers_draw_different_points_and_the_same_ones_in_a_repeated_sweep(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, tpe({"train.learning_rate": LogUniform(1e-4, 1e-1)}, trials=4))
    drawn = []
    for folder in ("one", "two"):
        Study.open(tmp_path / folder, plan)
        claims = [Study(tmp_path / folder).take() for _ in range(4)]  # each by a worker of its own
        drawn.append([claim and claim.point["train.learning_rate"] for claim in claims])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4


def test_a_study_survives_a_line_that_a_full_disk_cut_off(tmp_path: Path) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ROWS))
    with (tmp_path / "s" / "journal.log").open("a") as journal:
        journal.write('{"op_code": 4, "work')
    assert study.take() is not None
    assert states(tmp_path / "s") == ["running", "waiting"]
    assert Study(tmp_path / "s").take() is not None


def test_two_points_that_are_one_run_are_refused_before_any_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.remat=full is the same run as model.remat=none"):
        plan_of(tmp_path, grid({"model.remat": ("none", "full")}))


def test_bases_of_the_same_folder_name_are_different_trials(tmp_path: Path) -> None:
    for seed in (0, 1):
        train(tiny.config(tmp_path, model__seed=seed, train__steps=1), tmp_path / f"seed{seed}" / "final")
    plan = plan_of(tmp_path, grid({"train.start_from": tuple(f"{tmp_path}/seed{n}/final" for n in (0, 1))}))
    assert len({plan.config(plan.point(number)).fingerprint() for number in range(2)}) == 2


@pytest.mark.slow
def test_tpe_draws_new_points_and_each_is_trained(tmp_path: Path) -> None:
    study = Study.open(
        tmp_path / "s", plan_of(tmp_path, tpe({"train.learning_rate": LogUniform(1e-4, 1e-1)}, trials=4))
    )
    worker.work(tmp_path / "s")
    trials = study.trials()
    rates = {one.point["train.learning_rate"] for one in trials}
    assert len(rates) == 4
    assert all(one.state == "finished" and 1e-4 <= one.point["train.learning_rate"] <= 1e-1 for one in trials)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (grid({"train.lerning_rate": (1e-3,)}), "unknown field 'lerning_rate'"),
        (grid({"train.learning_rate": (1e-3, -1.0)}), "train.learning_rate=-1"),
        (grid({"model.position": ("rope", "rop")}), "did you mean 'rope'"),
        (grid({"model.num_heads": (4, 5)}), "num_heads=5"),
        (listed({"train.optimizer.weight_decay": -1.0}), "weight_decay=-1.0"),
        (
            tpe({"train.learning_rate": LogUniform(1e-4, 1e-2), "model.dimm": LogUniform(1, 2)}, 2),
            "did you mean 'model.dim'",
        ),
    ],
)
def test_a_space_with_an_impossible_trial_is_refused_before_any_starts(
    tmp_path: Path, space: Space, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(tmp_path, space)
