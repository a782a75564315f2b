"""Runs that go on longer, or otherwise, than they began, and what must not change on the way."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import tokenizer_files
from measured import evaluate
from test_runs import assert_same_run, history

import lmarch
from lmarch.config import Config
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.evaluation.asked import check_before_training
from lmarch.training.checkpoints import saved_steps
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics

SAVED = dict(train__checkpoint_steps=4, train__eval_steps=4, train__keep_checkpoints=9, train__schedule="constant")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a run of eight steps at a constant rate, saved at 4 and 8."""
    folder = tmp_path_factory.mktemp("going-on")
    train(tiny.config(folder, **SAVED), folder / "stable")
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder / "stable", tmp_path / "run")
    return tmp_path / "run"


def config(folder: Path, **changes) -> Config:
    return tiny.config(folder, **{**SAVED, **changes})


def test_a_run_that_is_given_more_steps_is_the_run_that_had_them_from_the_start(
    folder: Path, copy: Path, capsys
) -> None:
    longer = config(folder, train__steps=12)
    train(longer, copy)
    assert "config.train.steps was 8, is 12 from step 8 on" in capsys.readouterr().out
    train(longer, folder / "long")
    assert_same_run(copy, folder / "long", longer)
    record = json.loads((copy / "run.json").read_text())
    assert record["changes"] == [{"step": 8, "config.train.steps": [8, 12]}]
    assert (record["status"], record["steps"]) == ("finished", 12)
    assert json.loads((copy / "config.json").read_text())["fingerprint"] == longer.fingerprint()


@pytest.mark.parametrize("at", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_a_cooldown_branched_from_a_stable_run_is_the_run_that_had_it_from_the_start(
    at: int, folder: Path, tmp_path: Path
) -> None:
    cooled = config(folder, train__schedule="wsd", train__steps=at + 2, train__decay_steps=2)
    branch = dataclasses.replace(
        cooled, train=dataclasses.replace(cooled.train, branch_from=f"{folder / 'stable'}@{at}")
    )
    train(branch, tmp_path / "branch")
    train(cooled, tmp_path / "whole")
    assert_same_run(tmp_path / "branch", tmp_path / "whole", cooled)
    record = json.loads((tmp_path / "branch" / "run.json").read_text())
    assert record["branched_from"].startswith(f"{folder / 'stable'} at step {at}, config ")
    assert branch.fingerprint() == cooled.fingerprint()
    assert saved_steps(folder / "stable") == [4, 8]  # the parent is as it was


def test_a_branch_that_was_stopped_goes_on_without_its_parent(folder: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(folder / "stable", parent)
    branch = config(folder, train__steps=12, train__branch_from=f"{parent}@4")
    train(branch, tmp_path / "branch")
    whole = history(tmp_path / "branch")
    shutil.rmtree(tmp_path / "branch" / "checkpoints" / "12")
    shutil.rmtree(parent)
    train(branch, tmp_path / "branch")
    assert history(tmp_path / "branch") == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(train__schedule="cosine"),
            r"is at step 8, and by .*schedule was 'constant', is 'cosine' step 2 would have been",
        ),
        (
            dict(train__schedule="wsd", train__steps=9, train__decay_steps=5),
            r"decay_steps was None, is 5.* step 6 would have",
        ),
        (dict(train__steps=12, train__warmup_steps=3), r"warmup_steps was None, is 3.* step 1 would have been another"),
        (dict(train__position_schedule=({"step": 3, "position": "nope"},)), r"step 4 would have been another"),
        (dict(train__steps=12, model__dim=64), r"another config \(config.model.dim was 32, is 64\)"),
    ],
)
def test_what_would_have_changed_a_step_that_is_done_is_refused(
    changes: dict, message: str, folder: Path, copy: Path, tmp_path: Path
) -> None:
    before = (copy / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=message):
        train(config(folder, **changes), copy)
    with pytest.raises(UserError, match=message):
        train(config(folder, **changes, train__branch_from=str(copy)), tmp_path / "branch")
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_what_changes_only_speed_or_memory_goes_on(folder: Path, copy: Path) -> None:
    """As after running out of memory."""
    shutil.rmtree(copy / "checkpoints" / "8")
    speed = dict(model__remat="full", model__attention="tiled", model__scan_layers=False, train__accumulate=2)
    mesh = dict(mesh__data=4, mesh__tensor=2)  # rows of a micro-batch divide over four devices
    changed = config(folder, **speed, **mesh)
    assert changed.fingerprint() == config(folder).fingerprint()
    train(changed, copy)
    np.testing.assert_allclose(
        np.array(history(copy), float), np.array(history(folder / "stable"), float), rtol=1e-4, equal_nan=True
    )
    noted = json.loads((copy / "run.json").read_text())["changes"]
    assert [(one["step"], one["config.model.remat"], len(one)) for one in noted] == [(4, ["none", "full"], 5)]


def test_a_flipped_bit_in_a_checkpoint_is_noticed_and_the_one_before_is_used(folder: Path, copy: Path, capsys) -> None:
    """Every value is still a number: only its checksum tells that it is another one."""
    whole = history(copy)
    flipped = flip_a_bit_that_loads(copy / "checkpoints" / "8")
    train(config(folder), copy)
    said = capsys.readouterr().out
    assert "checkpoint 8 cannot be read" in said, flipped
    assert "falling back to 4" in said
    assert history(copy) == whole
    assert list((copy / "checkpoints").glob("damaged-8-*"))


def flip_a_bit_that_loads(checkpoint: Path) -> Path:
    """Flips one bit in the middle of the largest file of values."""
    file = max((file for file in checkpoint.rglob("d/*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def test_a_kill_while_a_run_resumes_loses_no_metrics(folder: Path, copy: Path, monkeypatch) -> None:
    """The records past the checkpoint go in one step; there is no moment at which the others are not there."""
    shutil.rmtree(copy / "checkpoints" / "8")
    whole = history(copy)

    def killed(path: Path, other: Path) -> None:
        if other.name == "metrics.jsonl":
            raise KeyboardInterrupt
        renamed(path, other)

    renamed = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config(folder), copy)
    monkeypatch.undo()
    assert history(copy) == whole
    train(config(folder), copy)
    assert history(copy) == whole


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_record_is_named(content: str, folder: Path, copy: Path) -> None:
    (copy / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run.json is not the record of a run .* Move it away"):
        train(config(folder), copy)


def test_a_run_is_opened_and_goes_on_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    """Its text and its tokenizer were named from where it was started; the tokenizer's file may even be gone."""
    tokenizer_files.train_llama_like(tmp_path / "words.json")
    tiny.write_corpus(tmp_path / "text")
    given = dict(
        data__corpus="text:text/*.txt", data__tokenizer="words.json", train__steps=2, train__checkpoint_steps=1
    )
    relative = tiny.config(tmp_path, **given)
    monkeypatch.chdir(tmp_path)
    train(relative, "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "words.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    assert train(relative, tmp_path / "run").steps == 2
    check_before_training(relative, tmp_path / "run")  # as the command does first
    model = lmarch.load(tmp_path / "run")
    assert evaluate(model, [("eval.suite", "smoke"), ("eval.lengths", "16,32"), ("eval.parts", "paired")]) == 0


def test_a_tokenizer_that_happens_to_lie_in_the_folder_is_not_a_new_runs(tmp_path: Path) -> None:
    mine = tokenizer_files.train_byte_level(tmp_path / "a.json", ["<x>"])
    other = tokenizer_files.train_byte_level(tmp_path / "b.json", ["<y>"])
    (tmp_path / "run").mkdir()
    shutil.copy(other, tmp_path / "run" / "tokenizer.json")
    train(tiny.config(tmp_path, data__tokenizer=mine, train__steps=1), tmp_path / "run")
    assert lmarch.load(tmp_path / "run").tokenizer.fingerprint == load_tokenizer(mine).fingerprint
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == Path(mine).read_bytes()


def test_a_run_is_not_cut_shorter(folder: Path, copy: Path) -> None:
    record = (copy / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"is already trained for 8 steps, more than the 6 of the config"):
        train(config(folder, train__steps=6), copy)
    assert (copy / "run.json").read_bytes() == record


def test_a_run_in_a_folder_that_looks_like_a_pattern_finds_its_text(tmp_path: Path, monkeypatch) -> None:
    tiny.write_corpus(tmp_path / "exp [1]")
    monkeypatch.chdir(tmp_path / "exp [1]")
    relative = tiny.config(tmp_path, data__corpus="text:*.txt", train__steps=1)
    assert train(relative, "run").steps == 1


def test_a_run_without_record_or_metrics_can_still_be_completed(folder: Path, copy: Path) -> None:
    for name in ("run.json", "metrics.jsonl"):
        (copy / name).unlink()
    assert train(config(folder), copy).steps == 8
    assert json.loads((copy / "run.json").read_text())["validation_bits_per_byte"] is None
    assert read_metrics(copy) == []
