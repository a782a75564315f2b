"""Prefix decoders and encoder-decoders are asked about the same targets, given the same text, as causal decoders."""

import dataclasses
import json
from pathlib import Path

import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmarch.data.corpora import load_documents
from lmarch.errors import UserError
from lmarch.evaluation.axes import AXES, given_tokens
from lmarch.evaluation.manifest import make_manifest
from lmarch.evaluation.scoring import score
from lmarch.loading import Model
from lmarch.models.definition import ModelDefinition
from lmarch.reporting.report import evaluate_and_report

LENGTHS = (16, 32, 64)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Model]:
    """Of the same text."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    for architecture in ("prefix_decoder", "encoder_decoder"):
        made[architecture] = initialised.model(
            tiny.config(folder, model__architecture=architecture), folder / architecture
        )
    return made


@pytest.fixture(scope="module")
def targets(models):
    model = models["prefix_decoder"]
    documents = load_documents(model.config.data, "validation")
    sizes = dict(longest=64, shortest=16, targets=8, num_windows=4, seed=0)
    return make_manifest(documents, model.tokenizer, **sizes)


def nll(model: Model, targets, length: int, given: int | None) -> np.ndarray:
    manifest, tokens = targets
    items = manifest.items(tokens, length, model.tokenizer.byte_lengths, given)
    return score(model, items, lambda done: None).nll_NS


@pytest.mark.parametrize("axis", AXES)
def test_targets_are_never_given_and_something_always_is(axis: str) -> None:
    for length in (2, 8, 31, 32, 33, 64, 256):
        for targets in (1, 2, 8):
            if targets > length:
                continue
            given = given_tokens(axis, length, targets, trained_length=32)
            assert 1 <= given <= length + 1 - targets
    assert given_tokens("prefix", 128, 8, 32) == 121  # all but the targets
    assert given_tokens("continuation", 128, 8, 32) == 16
    assert given_tokens("both", 128, 8, 32) == 64


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("length", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_scores_are_those_of_the_text_read_by_hand(axis: str, length: int, models, targets) -> None:
    """From `Model.logits`, window by window: the W + 1 tokens up to the last target, cut where the axis says."""
    manifest, tokens = targets
    given = given_tokens(axis, length, manifest.targets, 32)
    for model in models.values():
        found = nll(model, targets, length, given)
        for row, window in zip(found, manifest.windows, strict=True):
            end = window.first + manifest.targets
            text = tokens[window.document][end - length - 1 : end][None]
            if model.definition.is_encoder_decoder:
                logits = model.logits(text[:, :given], text[:, given:])
            else:
                logits = model.logits(text[:, :-1], prefix_length=given)
            log_p = np.asarray(jax.nn.log_softmax(logits[0, -manifest.targets :]))
            expected = -log_p[np.arange(manifest.targets), text[0, -manifest.targets :]]
            np.testing.assert_allclose(row, expected, atol=1e-5)


def test_a_prefix_of_one_token_is_the_causal_decoder_with_the_same_weights(models, targets) -> None:
    model = models["prefix_decoder"]
    causal = dataclasses.replace(model.definition.config, architecture="causal_decoder")
    as_causal = dataclasses.replace(model, definition=ModelDefinition(causal, model.definition.vocab_size))
    np.testing.assert_allclose(nll(model, targets, 16, 1), nll(as_causal, targets, 16, None), atol=1e-6)


def test_logits_of_an_encoder_decoder_predict_each_target_from_those_before_it(models) -> None:
    model = models["encoder_decoder"]
    source, said = jnp.arange(12)[None] + 60, jnp.arange(5)[None] + 70
    logits = model.logits(source, said)
    assert logits.shape == (1, 5, 264)
    changed = model.logits(source, said.at[0, 3].set(99))
    np.testing.assert_array_equal(logits[:, :4], changed[:, :4])  # position t reads targets before t
    assert not np.array_equal(logits[:, 4], changed[:, 4])
    with pytest.raises(UserError, match="encoder_decoder needs targets"):
        model.logits(source)
    with pytest.raises(UserError, match="encoder_decoder has no prefix_length"):
        model.logits(source, said, prefix_length=3)
    with pytest.raises(UserError, match="prefix_decoder needs prefix_length"):
        models["prefix_decoder"].logits(source)


@pytest.mark.usefixtures("figures_are_empty_files")
def test_every_axis_is_evaluated_drawn_and_reported(models, capsys) -> None:
    model = models["encoder_decoder"]
    assert (
        evaluate_and_report(model, [("eval.lengths", "16,32"), ("eval.suite", "smoke"), ("eval.methods", "rope")]) == 0
    )
    folder = model.workdir / "eval" / "smoke"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [(row["axis"], row["length"]) for row in rows] == [(axis, n) for axis in AXES for n in (16, 32)]
    assert len({row["manifest_sha"] for row in rows}) == 1
    assert len({row["n_bytes"] for row in rows}) == 1
    assert {row["cross_positions"] for row in rows} == {"none"}
    for axis in AXES:
        assert (folder / f"bits_per_byte-{axis}.png").exists()
        assert (folder / f"results-{axis}.csv").exists()
    page = (folder / "report.html").read_text()
    assert "The prefix grows" in page
    assert "cross-attention without positions" in page
    assert "both grow" in capsys.readouterr().out


def test_axes_are_refused_where_there_are_none(tmp_path: Path) -> None:
    model = initialised.model(tiny.config(tmp_path), tmp_path / "run")
    with pytest.raises(UserError, match="a causal decoder reads one stream, leave axes out"):
        evaluate_and_report(model, [("eval.axes", "prefix"), ("eval.lengths", "16")])
