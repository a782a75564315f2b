"""Runs that start from the weights of another one, at longer rows."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from measured import evaluate

import lmarch
from lmarch.errors import UserError
from lmarch.training.loop import train
from lmarch.training.parent import with_parent

LONGER = dict(data__row_length=64, model__target_length=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    train(tiny.config(folder), folder / "run")
    return folder / "run"


def test_a_run_starts_from_the_weights_of_another_at_a_longer_length(base: Path, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, train__start_from=str(base), train__steps=1, train__learning_rate=1e-12, **LONGER)
    train(config, tmp_path / "run")
    first, second = lmarch.load(base), lmarch.load(tmp_path / "run")
    for before, after in zip(*(jax.tree.leaves(m.trained_params) for m in (first, second)), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["started_from"] == f"{base} at step 8, config {first.config.fingerprint()}"
    assert record["longest_position"] == 63


def test_methods_are_stretched_to_the_longer_length_and_are_in_their_design_there(base: Path, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, train__start_from=str(base), train__steps=2, model__position="linear", **LONGER)
    train(config, tmp_path / "run")
    model = lmarch.load(tmp_path / "run")
    assert model.method == "linear:factor=2"
    assert model.out_of_design(64) is None
    assert "stretched for 64 tokens and is used at 128" in str(model.out_of_design(128))
    assert evaluate(model, [("eval.suite", "smoke"), ("eval.lengths", "32,64"), ("eval.parts", "paired")]) == 0


@pytest.mark.slow
def test_an_interrupted_one_goes_on_from_its_own_checkpoint(base: Path, tmp_path: Path, monkeypatch) -> None:
    changes = dict(train__start_from=str(base), train__checkpoint_steps=2, **LONGER)
    config = tiny.config(tmp_path, train__steps=4, **changes)
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "4")
    monkeypatch.setattr("lmarch.training.parent.read_parameters", None)  # the base is not read again
    train(config, tmp_path / "parts")
    whole, parts = (lmarch.load(tmp_path / name) for name in ("whole", "parts"))
    for one, other in zip(*(jax.tree.leaves(m.trained_params) for m in (whole, parts)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_base_counts_by_what_it_is_and_not_by_where_it_lies(base: Path, tmp_path: Path) -> None:
    """Folders of different runs have the same name, `seedA/final` and `seedB/final`, and one run may lie in two folders."""
    other, moved = tmp_path / "b" / "run", tmp_path / "a" / "moved"
    train(tiny.config(tmp_path, train__steps=2, model__seed=1), other)
    shutil.copytree(base, moved)

    def fingerprint(start: Path | str) -> str:
        return with_parent(tiny.config(tmp_path, train__start_from=str(start)), tmp_path / "none").fingerprint()

    assert base.name == other.name
    assert fingerprint(base) == fingerprint(moved) == fingerprint(f"{base}@8") != fingerprint(other)
    shutil.copytree(moved / "checkpoints" / "8", moved / "checkpoints" / "7")
    assert fingerprint(f"{moved}@7") != fingerprint(base)


@pytest.mark.slow
def test_a_run_goes_on_when_its_base_is_gone_or_has_been_trained_further(base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    config = tiny.config(tmp_path, train__start_from=str(moved), train__steps=2, train__checkpoint_steps=1)
    train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    shutil.copytree(moved / "checkpoints" / "8", moved / "checkpoints" / "9")
    assert train(config, tmp_path / "run").steps == 2
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    shutil.rmtree(moved)
    assert train(config, tmp_path / "run").steps == 2
    with pytest.raises(UserError, match="no checkpoint in"):
        train(config, tmp_path / "another")


def test_a_base_that_is_trained_further_stays_what_it_was_at_a_step(tmp_path: Path) -> None:
    """And a run that began from its step 2, and died before its first save, begins there again."""
    longer = dict(train__schedule="constant", train__checkpoint_steps=2, train__keep_checkpoints=9)
    train(tiny.config(tmp_path, train__steps=2, **longer), tmp_path / "base")
    child = tiny.config(tmp_path, train__start_from=str(tmp_path / "base"), train__steps=1, train__learning_rate=1e-12)
    train(child, tmp_path / "child")
    before = with_parent(child).fingerprint()
    shutil.rmtree(tmp_path / "child" / "checkpoints")
    train(tiny.config(tmp_path, train__steps=4, **longer), tmp_path / "base")
    pinned = tiny.config(
        tmp_path, train__start_from=f"{tmp_path / 'base'}@2", train__steps=1, train__learning_rate=1e-12
    )
    assert with_parent(pinned).fingerprint() == before != with_parent(child).fingerprint()
    train(child, tmp_path / "child")
    step_2, begun = lmarch.load(tmp_path / "base", step=2), lmarch.load(tmp_path / "child")
    for one, other in zip(*(jax.tree.leaves(m.trained_params) for m in (step_2, begun)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_another_base_than_the_config_names_is_refused(base: Path, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, train__start_from=str(base), train__start_fingerprint="0123456789ab@8")
    with pytest.raises(UserError, match=r"start_fingerprint=0123456789ab@8, but the run in .* is .*@8"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train__start_from="nowhere"), "no checkpoint in .*nowhere"),
        (dict(model__dim=16), "does not fit the config: params.embedding has shape"),
        (dict(data__row_length=64), "give train.start_from and a model.target_length as long"),
        (dict(data__row_length=65, model__target_length=64), "trains past config.model.trained_length=32"),
    ],
)
def test_what_cannot_be_started_from_is_refused(changes: dict, message: str, base: Path, tmp_path: Path) -> None:
    given = {"train__start_from": str(base), **changes}
    with pytest.raises(UserError, match=message):
        train(tiny.config(tmp_path, **given), tmp_path / "run")


def test_another_tokenizer_is_refused(base: Path, tmp_path: Path, monkeypatch) -> None:
    from lmarch.training import parent

    record = {"tokenizer_fingerprint": "another", "fingerprint": "x"}
    real = parent.read_parameters
    monkeypatch.setattr(parent, "read_parameters", lambda *a: (*real(*a)[:2], record))
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        train(tiny.config(tmp_path, train__start_from=str(base)), tmp_path / "run")
