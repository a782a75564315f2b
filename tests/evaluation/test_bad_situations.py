"""evaluation.md's table of bad situations: what is refused, what is flagged, what is kept, and that nothing is silent."""

import dataclasses
import errno
import signal
import time
from pathlib import Path

import initialised
import jax
import measured
import numpy as np
import pytest
import tiny
from commands import finish, start
from measured import rows_of

import lmarch
from lmarch.errors import MachineError, UserError
from lmarch.evaluation import attention_statistics, measuring, rows, scoring
from lmarch.lock import Busy, Lock
from lmarch.reporting.report import evaluate_and_report
from lmarch.training.loop import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return initialised.model(tiny.config(folder), folder / "run")


def run(model, evaluate=measured.evaluate, **chosen: str) -> int:
    given = {"suite": "smoke", "methods": "rope", "lengths": "16,32,64", "parts": "paired", **chosen}
    return evaluate(model, [(f"eval.{name}", text) for name, text in given.items()])


def test_a_length_no_document_has_is_refused_with_what_there_is(model) -> None:
    with pytest.raises(UserError) as error:
        run(model, lengths="32,5000")
    assert "validation documents of" in str(error.value)
    assert "have more than 5000 tokens (the longest has" in str(error.value)
    assert "choose shorter --lengths" in str(error.value)


def test_a_disk_that_takes_nothing_is_one_line(model, monkeypatch) -> None:
    def full(file: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rows, "write_text", full)
    with pytest.raises(
        MachineError, match=r"eval/smoke cannot be written \(No space left on device\): make room there"
    ):
        run(model, parts="paired", lengths="16")


def test_a_second_evaluation_of_a_suite_is_told_who_is_at_it(model) -> None:
    folder = model.workdir / "eval" / "smoke"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        Lock(folder / "lock"),
        pytest.raises(Busy, match=r"eval/smoke is being written by process \d+ on .*: wait"),
    ):
        run(model, parts="paired", lengths="16")


def test_which_documents_are_read_does_not_depend_on_the_length(model) -> None:
    assert run(model, lengths="16,32,64,128") == 0
    rows = rows_of(model)
    assert len({(row["n"], row["n_bytes"], row["manifest_sha"]) for row in rows}) == 1
    assert all(row["low_n"] for row in rows)  # fewer than 30 documents


@pytest.mark.usefixtures("figures_are_empty_files")
def test_what_runs_out_of_memory_is_a_row_and_smaller_batches_are_tried_first(model, monkeypatch, capsys) -> None:
    real, tried = scoring._in_batches, []

    def full(model, items, batch, report):
        if items.length == 64:
            tried.append(batch)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nmore")
        return real(model, items, batch, report)

    monkeypatch.setattr(scoring, "_in_batches", full)
    assert run(model, evaluate_and_report, seed="7") == 0
    assert tried == sorted(tried, reverse=True)
    assert tried[-1] == 1
    rows = {row["length"]: row for row in rows_of(model)}
    assert (rows[64]["task"], rows[64]["status"], rows[64]["value"]) == ("out_of_memory", "oom", None)
    page = (model.workdir / "eval" / "smoke" / "report.html").read_text()
    assert "Not even one row at a time fitted the device: paired: rope at 64." in page
    assert rows[32]["status"] == "ok"
    assert "out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.)" in capsys.readouterr().out


def test_attention_that_does_not_fit_is_a_row_too(model, monkeypatch) -> None:
    real = attention_statistics.statistics

    def full(method, tokens_NT, trained_length):
        with scoring.memory_errors():
            if tokens_NT.shape[1] == 64:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return real(method, tokens_NT, trained_length)

    monkeypatch.setattr(attention_statistics, "statistics", full)
    assert run(model, parts="attention", lengths="32,64,128") == 0
    rows = rows_of(model)
    (lost,) = (row for row in rows if row["task"] == "out_of_memory")
    assert (lost["part"], lost["length"]) == ("attention", 64)
    assert {row["length"] for row in rows if row["metric"] == "entropy"} == {32, 128}


def test_a_smaller_batch_gives_the_same_scores(model, monkeypatch) -> None:
    real = scoring._in_batches
    assert run(model, seed="8") == 0
    first = rows_of(model)

    def small(model, items, batch, report):
        if batch > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(model, items, batch, report)

    monkeypatch.setattr(scoring, "_in_batches", small)
    for file in (model.workdir / "eval" / "smoke" / "items").glob("*.npz"):
        file.unlink()
    assert run(model, seed="8") == 0
    for row, again in zip(first, rows_of(model), strict=True):
        assert again["value"] == pytest.approx(row["value"], rel=1e-5)


def test_an_error_that_is_not_about_memory_is_not_hidden(model, monkeypatch) -> None:
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(scoring, "_in_batches", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run(model, seed="9")


def test_an_interrupted_evaluation_goes_on_where_it_was(model, monkeypatch) -> None:
    real, scored = measuring.score, []

    def stopping(model, items, report):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(items.length)
        return real(model, items, report)

    monkeypatch.setattr(measuring, "score", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(model, seed="10")
    monkeypatch.setattr(measuring, "score", lambda *a: scored.append(a[1].length) or real(*a))
    assert run(model, seed="10") == 0
    assert len(scored) == 3  # 32 is the crop control too: three different items, each scored once
    assert len(set(scored)) == 3


def test_losses_that_are_not_finite_are_counted_and_never_dropped(model, tmp_path: Path) -> None:
    broken = jax.tree.map(lambda x: x, model.params)
    broken["embedding"] = broken["embedding"].at[ord("t")].set(np.nan)
    sick = dataclasses.replace(model, trained_params=broken, workdir=tmp_path)
    assert run(sick) == 3
    for row in rows_of(sick):
        assert row["value"] is None
        assert row["n_nonfinite"] > 0


def test_one_loss_that_is_not_finite_is_told_by_the_exit_status(model, monkeypatch) -> None:
    real = measuring.score

    def poisoned(model, items, report):
        scores = real(model, items, report)
        nll_NS = scores.nll_NS.copy()
        nll_NS[0, 0] = np.inf if items.length == 64 else nll_NS[0, 0]
        return dataclasses.replace(scores, nll_NS=nll_NS)

    monkeypatch.setattr(measuring, "score", poisoned)
    assert run(model, seed="1") == 3  # other targets than those that are scored already
    assert [row["n_nonfinite"] for row in rows_of(model)] == [0, 0, 1]


@pytest.mark.slow
def test_training_text_in_the_test_split_is_printed_and_flagged(tmp_path: Path, capsys) -> None:
    """Documents of a few words made anew for each share no run of 13; copies of one document do."""
    folder = tmp_path / "text"
    folder.mkdir()
    rng = np.random.default_rng(0)
    unlike = [" ".join(f"w{n}" for n in rng.integers(0, 999, 300)) for _ in range(40)]
    for copies, flagged in ((unlike, False), ([unlike[0]] * 40, True)):
        for number, text in enumerate(copies):
            (folder / f"{number:03}.txt").write_text(f"{number} {text}")
        own = tmp_path / str(flagged)
        train(tiny.config(own, data__corpus=f"text:{folder}/*.txt", train__steps=1), own / "run")
        model = lmarch.load(own / "run")
        assert run(model) == 0
        assert ("CONTAMINATED" in capsys.readouterr().out) is flagged
        assert {row["contaminated"] for row in rows_of(model)} == {flagged}
        assert (rows_of(model)[0]["shared_text"] > 0.9) is flagged


@pytest.mark.slow
def test_a_method_outside_its_design_is_flagged_with_the_violated_bound(model) -> None:
    assert run(model, methods="rope,linear:factor=2,self_extend:group=2", lengths="32,64,128") == 0
    flagged = {(row["label"], row["length"]): row["out_of_design"] for row in rows_of(model)}
    assert flagged["linear", 64] is None
    assert "64 tokens and is used at 128" in flagged["linear", 128]


@pytest.mark.slow
def test_ctrl_c_leaves_what_was_measured_and_one_line(tmp_path: Path) -> None:
    train(tiny.config(tmp_path, train__steps=1), tmp_path / "run")
    process = start("eval", f"--workdir={tmp_path / 'run'}", "--suite=full", "--lengths=16,32,64,512")
    items = tmp_path / "run" / "eval" / "full" / "items"
    deadline = time.monotonic() + 120
    while not list(items.glob("*@*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, printed, errors = finish(process)
    assert status == 130, printed + errors
    assert "Traceback" not in errors
    assert list(items.glob("*@*.npz"))
