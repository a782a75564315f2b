"""Whole runs: what they leave behind, how they go on, and what stops them. In-process where nothing is killed."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

import lmarch
from lmarch.config import Config
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.provenance import git_commit
from lmarch.training import checkpoints
from lmarch.training import run as running
from lmarch.training.checkpoints import Checkpoints, read_parameters, saved_steps
from lmarch.training.interrupts import StopRequest
from lmarch.training.loop import train
from lmarch.training.metrics import MetricsWriter, read_metrics
from lmarch.training.optimizers import learning_rate_schedule

NUMBERS = ("loss", "bits_per_byte", "grad_norm", "learning_rate", "target_tokens", "validation_loss")


@pytest.fixture(autouse=True)
def short_pause_after_a_failed_read(monkeypatch) -> None:
    """What is read here is small, and many reads fail."""
    monkeypatch.setattr(checkpoints, "SECONDS_UNTIL_READS_END", 0.1)


def history(workdir: Path) -> list[tuple]:
    """Everything in metrics.jsonl that is no timing."""
    metrics = [m for m in read_metrics(workdir) if "compile_seconds" not in m]
    return [(m["step"], *(m.get(name) for name in NUMBERS)) for m in metrics]


def parameters(workdir: Path, config: Config) -> dict:
    return read_parameters(workdir, ModelDefinition(config.model, 264).shapes, step=None)[1]


def assert_same_run(a: Path, b: Path, config: Config) -> None:
    assert history(a) == history(b)
    jax.tree.map(np.testing.assert_array_equal, parameters(a, config), parameters(b, config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Config, Path]:
    """A run of 8 steps that saved at 3, 6 and 8."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny.config(folder, train__checkpoint_steps=3, train__eval_steps=4, train__keep_checkpoints=3)
    assert train(config, folder / "run").exit_status == 0
    return config, folder / "run"


@pytest.fixture
def copy(finished, tmp_path: Path) -> tuple[Config, Path]:
    shutil.copytree(finished[1], tmp_path / "run")
    return finished[0], tmp_path / "run"


def test_every_step_goes_at_the_rate_that_the_schedule_has_for_it(finished) -> None:
    config, run = finished
    rates = {entry["step"]: entry["learning_rate"] for entry in read_metrics(run) if "learning_rate" in entry}
    schedule = learning_rate_schedule(config)
    np.testing.assert_allclose([rates[step] for step in range(1, 9)], [schedule(n) for n in range(8)], rtol=1e-6)


def test_a_run_records_how_it_came_about(finished) -> None:
    config, run = finished
    record = json.loads((run / "run.json").read_text())
    assert json.loads((run / "config.json").read_text())["fingerprint"] == config.fingerprint()
    assert record["fingerprint"] == config.fingerprint()
    assert {"jax", "flax", "orbax-checkpoint", "python"} <= record["versions"].keys()
    assert record["status"] == "finished"
    assert record["steps"] == 8
    assert record["trained_tokens"] == 8 * 8 * 32
    assert "git_commit" in record
    assert "cpu" in record["device"]
    assert record["compile_seconds"] > 0
    assert saved_steps(run) == [3, 6, 8]
    assert any((run / "tensorboard").iterdir())


def test_metrics_have_every_step_and_the_rates(finished) -> None:
    logged = [m for m in read_metrics(finished[1]) if "loss" in m]
    assert [m["step"] for m in logged] == list(range(1, 9))
    assert all({"tokens_per_second", "data_wait_seconds", "learning_rate", "grad_norm"} <= m.keys() for m in logged)
    assert [m["step"] for m in read_metrics(finished[1]) if "validation_loss" in m] == [4, 8]
    assert [m["step"] for m in read_metrics(finished[1]) if "compile_seconds" in m] == [0]
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_training_again_does_nothing(copy, capsys) -> None:
    config, run = copy
    before = (run / "metrics.jsonl").read_bytes()
    assert train(config, run).exit_status == 0
    assert "already trained for 8 steps" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_killed_before_its_record_ended_has_the_same_record(copy, finished) -> None:
    config, run = copy
    file = run / "run.json"
    whole = json.loads(file.read_text())
    ended = {"status", "steps", "trained_tokens", "validation_bits_per_byte", "seconds", "resumed_at"}
    file.write_text(
        json.dumps({key: value for key, value in whole.items() if key not in ended} | {"status": "running"})
    )
    train(config, run)
    assert json.loads(file.read_text()) == {k: v for k, v in whole.items() if k not in ("seconds", "resumed_at")}


def test_a_half_deleted_checkpoint_falls_back_to_the_last_good_one(copy, finished, capsys) -> None:
    config, run = copy
    for file in (run / "checkpoints" / "8").rglob("d/*"):
        file.unlink()
    assert train(config, run).exit_status == 0
    said = capsys.readouterr().out
    assert "checkpoint 8 cannot be read" in said
    assert "falling back to 6" in said
    assert list((run / "checkpoints").glob("damaged-8-*"))
    assert_same_run(run, finished[1], config)


@pytest.mark.parametrize("damage", ["garbage", "empty folder", "no metadata"])
def test_a_corrupted_checkpoint_is_not_used(copy, finished, damage: str, capsys) -> None:
    config, run = copy
    folder = run / "checkpoints" / "8"
    if damage == "garbage":
        for file in (folder / "state").rglob("d/*"):
            file.write_bytes(b"\0" * file.stat().st_size)
    elif damage == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        for file in folder.rglob("_METADATA"):
            file.unlink()
    train(config, run)
    assert "checkpoint 8 cannot be read" in capsys.readouterr().out
    assert_same_run(run, finished[1], config)


def test_without_a_readable_checkpoint_nothing_starts_over_and_nothing_is_touched(copy) -> None:
    config, run = copy
    for folder in (run / "checkpoints").iterdir():
        shutil.rmtree(folder)
        folder.mkdir()
    history_before = (run / "metrics.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint in .* can be read, and nothing was changed there"):
            train(config, run)
    assert saved_steps(run) == [3, 6, 8]
    assert (run / "metrics.jsonl").read_bytes() == history_before


def test_a_failure_that_is_not_the_checkpoints_moves_nothing(copy, monkeypatch) -> None:
    config, run = copy

    def fails(*args, **kwargs):
        raise RuntimeError("RESOURCE_EXHAUSTED: the device is full")

    monkeypatch.setattr(checkpoints.ocp, "load", fails)
    with pytest.raises(UserError, match="RESOURCE_EXHAUSTED"):
        train(config, run)
    monkeypatch.undo()
    assert saved_steps(run) == [3, 6, 8]
    assert train(config, run).steps == 8


@pytest.mark.slow
def test_the_same_step_can_be_damaged_twice(copy) -> None:
    config, run = copy
    for _ in range(2):
        for file in (run / "checkpoints" / "8").rglob("d/*"):
            file.unlink()
        assert train(config, run).steps == 8
    assert len(list((run / "checkpoints").glob("damaged-8-*"))) == 2


def test_the_checkpoint_that_is_best_on_validation_is_kept_beside_the_latest(tmp_path: Path) -> None:
    saving = Checkpoints(tmp_path, keep=1)
    for step, bits in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None)):
        saving.save(step, {"weight": np.zeros(2)}, {}, bits)
    saving.wait()
    assert saved_steps(tmp_path) == [2, 4]


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    """By who watches a run, and by the run that goes on after a kill."""
    writer = MetricsWriter(tmp_path, resume_step=0)
    writer.write(1, {"loss": 2.0})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    writer.close()


def test_a_second_signal_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_status == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data__corpus="sotuu"), "unknown config.data.corpus='sotuu'"),
        (dict(model__position={"name": "roep"}), "did you mean 'rope'"),
        (dict(train__optimizer={"name": "adamw", "b1": 2.0}), "b1=2.0 must be in [0, 1)"),
        (dict(mesh__data=3), "does not divide 8 devices"),
    ],
)
def test_a_mistake_does_not_claim_the_workdir(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        train(tiny.config(tmp_path, **changes), tmp_path / "run")
    assert message in str(error.value)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["lock"]  # which is free


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train__learning_rate=0.5), "config.train.learning_rate was 0.01, is 0.5"),
        (dict(model__dim=64), "config.model.dim was 32, is 64"),
    ],
)
def test_a_workdir_belongs_to_one_config(copy, tmp_path, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        train(tiny.config(tmp_path, data__corpus=copy[0].data.corpus, **changes), copy[1])
    assert message in str(error.value)


def test_changed_text_is_not_trained_on_silently(tmp_path: Path) -> None:
    config = tiny.config(tmp_path, train__steps=2)
    train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2" / "metrics")  # a run that is not finished would go on
    (tmp_path / "text" / "000.txt").write_text("other words entirely " * 40)
    with pytest.raises(UserError, match="trained with another rows"):
        train(config, tmp_path / "run")


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_goes_on_with_other_meshes(copy, tmp_path: Path, finished) -> None:
    """The run of 8 steps was data parallel; its checkpoint of step 6 goes on with fsdp x tensor."""
    config, run = copy
    shutil.rmtree(run / "checkpoints" / "8")
    split = tiny.config(
        tmp_path,
        data__corpus=config.data.corpus,
        train__checkpoint_steps=3,
        train__eval_steps=4,
        mesh__data=1,
        mesh__fsdp=4,
        mesh__tensor=2,
    )
    assert train(split, run).steps == 8
    for ours, theirs in zip(history(run), history(finished[1]), strict=True):
        np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch
) -> None:
    config = tiny.config(tmp_path, train__checkpoint_steps=3)
    real, calls = running.put_rows, []

    def poisoned(batch, mesh):
        calls.append(None)
        if len(calls) == 6:  # the first call is the one that is compiled for
            batch = batch._replace(weights=batch.weights * np.float32(np.nan))
        return real(batch, mesh)

    monkeypatch.setattr(running, "put_rows", poisoned)
    with pytest.raises(UserError) as error:
        train(config, tmp_path / "run")
    assert "at step 5: stopped; the last good checkpoint is 3" in str(error.value)
    assert saved_steps(tmp_path / "run") == [3]
    assert "failed" in json.loads((tmp_path / "run" / "run.json").read_text())["status"]


@pytest.mark.parametrize("during", ["_validate", pytest.param("_read", marks=pytest.mark.slow)])
def test_a_signal_at_any_moment_saves_the_step_that_was_done(
    during: str, tmp_path: Path, finished, monkeypatch
) -> None:
    """The moment is inside a validation, or while the metrics of a step are being read."""
    config = tiny.config(tmp_path, data__corpus=finished[0].data.corpus, train__eval_steps=4)
    real, calls = getattr(running.Run, during), []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(running.Run, during, interrupted)
    outcome = train(config, tmp_path / "run")
    assert outcome.exit_status == 128 + signal.SIGTERM
    assert saved_steps(tmp_path / "run") == [outcome.steps] == [read_metrics(tmp_path / "run")[-1]["step"]]
    assert train(config, tmp_path / "run").steps == 8
    assert_same_run(tmp_path / "run", finished[1], finished[0])


def test_an_unwritable_workdir_is_refused_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        train(tiny.config(tmp_path), tmp_path / "file" / "run")


def test_a_loaded_model_says_what_it_was_trained_with_and_takes_another_position(finished) -> None:
    config, run = finished
    model = lmarch.load(run)
    tokens = np.arange(48)[None] + 60
    logits = model.logits(tokens)
    assert logits.shape == (1, 48, 264)
    assert model.config.meaningful() == config.meaningful()
    stretched = model.with_position("ntk", factor=4)
    assert stretched.spec.position.method == "ntk:factor=4"
    assert stretched.config.model.position == {"name": "rope"}
    assert not np.allclose(stretched.logits(tokens), logits)
    np.testing.assert_allclose(model.with_position("linear", factor=1).logits(tokens), logits, atol=1e-5)
    assert np.array_equal(model.with_window("full").logits(tokens), logits)
    with pytest.raises(UserError, match="did you mean 'ntk'"):
        model.with_position("nkt")


def test_tokens_outside_the_vocabulary_are_refused(finished) -> None:
    model = lmarch.load(finished[1])
    for tokens in ([[264]], [[-1]], [[1.5]], [1, 2], [[]]):
        with pytest.raises(UserError, match="tokens"):
            model.logits(tokens)


def test_loading_what_is_not_there_says_so(finished, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        lmarch.load(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint of step 5 .*saved: 3, 6, 8"):
        lmarch.load(finished[1], step=5)


def test_a_vocabulary_that_does_not_fit_the_checkpoint_is_refused(copy, monkeypatch) -> None:
    import dataclasses

    from lmarch import loading

    other = dataclasses.replace(loading.run_tokenizer(*copy[::-1]), fingerprint="another")
    monkeypatch.setattr(loading, "run_tokenizer", lambda workdir, config: other)
    with pytest.raises(UserError, match="tokenizer 'bytes' is not the one"):
        lmarch.load(copy[1])
    with pytest.raises(UserError, match=r"params.embedding has shape \(264, 32\) there, \(300, 32\) by the config"):
        read_parameters(copy[1], ModelDefinition(copy[0].model, 300).shapes, step=None)


def test_a_commit_is_only_of_a_checkout_of_lmarchs_own(tmp_path: Path, monkeypatch) -> None:
    """Not of the repository around it, such as somebody's project with an unpacked source distribution in it."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    for top, known in ((tmp_path, True), (tmp_path / "vendored", False)):
        top.mkdir(exist_ok=True)
        monkeypatch.setattr("lmarch.provenance.checkout", lambda top=top: top)
        assert bool(git_commit()) == known
    monkeypatch.setattr("lmarch.provenance.checkout", lambda: None)
    assert git_commit() is None
