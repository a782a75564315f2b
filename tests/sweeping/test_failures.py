"""Trials that fail: for good, on one machine, or once; tried again, and measured later."""

import itertools
from pathlib import Path

import jax
import pytest
from commands import call
from test_studies import ONE, ROWS, plan_of, programs_are_kept, states  # noqa: F401 (a fixture)

from lmarch.errors import UserError
from lmarch.sweeping import worker
from lmarch.sweeping.failures import ATTEMPTS
from lmarch.sweeping.space import grid
from lmarch.sweeping.study import Study
from lmarch.sweeping.summary import groups_of, selected


def test_a_failed_trial_keeps_its_reason_and_stops_nothing(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, grid({"train.eval_rows": (4, 8, 16)})))
    real = worker.train

    def fails(config, folder, go_on):
        if config.train.eval_rows == 4:
            raise UserError("loss nan at step 3")
        if config.train.eval_rows == 8:
            raise RuntimeError("RESOURCE_EXHAUSTED: too large\nmore")
        return real(config, folder, go_on)

    monkeypatch.setattr(worker, "train", fails)
    assert worker.work(tmp_path / "s") == 0
    first, second, third = study.trials()
    assert (first.state, first.record["reason"]) == ("failed", "loss nan at step 3")
    assert (second.state, second.record["reason"]) == ("failed", "RuntimeError: RESOURCE_EXHAUSTED: too large")
    assert third.state == "finished"


def broken(config, folder, go_on):
    raise jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access\nmore")


def test_a_worker_whose_device_is_broken_gives_up_and_another_does_its_trials(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, grid({"train.eval_rows": (4, 5, 6, 7)})))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", broken)
        assert worker.work(tmp_path / "s") == worker.GAVE_UP
    assert states(tmp_path / "s") == ["again", "again", "again", "waiting"]
    assert (
        study.trials()[0].record["reason"]
        == "JaxRuntimeError: INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"
    )
    claim = study.take(f"{worker.HOST} process {worker.os.getpid()}")
    assert claim is not None
    assert claim.number == 3  # what failed on this machine is left to others
    claim.lock.release()
    monkeypatch.setattr(worker.os, "getpid", lambda: -1)  # another worker
    assert worker.work(tmp_path / "s") == 0
    assert states(tmp_path / "s") == ["finished"] * 4
    assert [len(one.record.get("failures", [])) for one in study.trials()] == [1, 1, 1, 0]


def test_a_worker_does_not_wait_for_what_only_others_can_do(tmp_path: Path, monkeypatch, capsys) -> None:
    Study.open(tmp_path / "s", plan_of(tmp_path, ROWS))
    real, tried = worker.train, []

    def fails_once(config, folder, go_on):
        tried.append(config.train.eval_rows)
        return (broken if len(tried) == 1 else real)(config, folder, go_on)

    monkeypatch.setattr(worker, "train", fails_once)
    assert worker.work(tmp_path / "s") == worker.GAVE_UP
    assert tried == [8, 16]
    assert "1 trials are left that failed on this worker" in capsys.readouterr().out
    assert states(tmp_path / "s") == ["again", "finished"]


def test_a_trial_that_fails_everywhere_has_failed_and_can_be_tried_again(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ONE))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", broken)
        for process in range(ATTEMPTS["machine"]):
            patch.setattr(worker.os, "getpid", lambda process=process: -process)
            worker.work(tmp_path / "s")
    assert states(tmp_path / "s") == ["failed"]
    assert not study.under_way
    assert study.retry() == 1
    assert states(tmp_path / "s") == ["waiting"]
    assert worker.work(tmp_path / "s") == 0
    (trial,) = study.trials()
    assert (trial.state, len(trial.record["before"])) == ("finished", ATTEMPTS["machine"])
    assert study.retry() == 0


def test_a_retry_that_is_killed_can_be_made_again(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ONE))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", lambda *given: (_ for _ in ()).throw(UserError("loss nan")))
        worker.work(tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr("lmarch.sweeping.study.write_json", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            study.retry()
    worker.work(tmp_path / "s")
    assert states(tmp_path / "s") == ["failed"]
    assert study.retry() == 1
    assert worker.work(tmp_path / "s") == 0
    assert states(tmp_path / "s") == ["finished"]


def test_a_trial_that_cannot_be_measured_keeps_its_value_and_is_measured_later(tmp_path: Path, monkeypatch) -> None:
    changes = dict(eval__lengths=(16, 32), eval__targets=8)
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ONE, suite="smoke", **changes))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "load", lambda folder: 1 / 0)
        assert worker.work(tmp_path / "s") == 0
    (trial,) = study.trials()
    assert (trial.state, trial.record["reason"]) == ("trained", "not measured: ZeroDivisionError: division by zero")
    best = selected(groups_of([trial]))
    assert best is not None  # it has its value
    monkeypatch.setattr(worker, "train", None)
    assert call("sweep", "retry", f"--workdir={tmp_path / 's'}") == 0
    (again,) = study.trials()
    assert (again.state, again.record["value"]) == ("finished", trial.record["value"])
    assert [row["length"] for row in again.record["measured"]] == [16, 32]


def test_a_trial_whose_process_dies_again_and_again_has_failed(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, ONE))

    def dies(config, folder, go_on):
        raise SystemExit  # leaves the record as a kill does

    monkeypatch.setattr(worker, "train", dies)
    for _ in range(worker.DEATHS):
        claim = study.take()
        assert claim is not None
        with pytest.raises(SystemExit):
            worker.run_trial(study, claim)
        claim.lock.release()
    assert worker.work(tmp_path / "s") == 0
    (trial,) = study.trials()
    assert trial.state == "failed"
    assert trial.record["reason"].startswith("its process died 3 times after step 0")


def test_a_trial_that_comes_further_may_die_as_often_as_it_does(tmp_path: Path, monkeypatch) -> None:
    study = Study.open(tmp_path / "s", plan_of(tmp_path, grid({"train.learning_rate": (1e-3,)})))
    saved = itertools.count(1)

    def dies(config, folder, go_on):
        raise SystemExit

    monkeypatch.setattr(worker, "train", dies)
    monkeypatch.setattr(worker, "saved_steps", lambda folder: [next(saved)])
    for _ in range(2 * worker.DEATHS):
        claim = study.take()
        assert claim is not None
        with pytest.raises(SystemExit):
            worker.run_trial(study, claim)
        claim.lock.release()
    assert states(tmp_path / "s") == ["interrupted"]
