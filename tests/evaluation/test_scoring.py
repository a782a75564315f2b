"""Scores and metrics of models whose answers are known: uniform, copying, constant."""

import dataclasses
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from initialised import parameters

from lmarch.data.documents import Document, Documents
from lmarch.data.tokenizers import load_tokenizer
from lmarch.evaluation.manifest import make_manifest
from lmarch.evaluation.metrics import METRICS
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.scoring import Scores, score
from lmarch.evaluation.statistics import ratio
from lmarch.loading import untrained

TOKENIZER = load_tokenizer("bytes")
PERIOD, TARGETS, LENGTHS = 13, 8, (16, 64)
A = int(TOKENIZER.encode("a")[0])


def period(number: int) -> str:
    return "".join(np.random.default_rng(number).choice(list("abcd"), PERIOD))


DOCUMENTS = Documents("made", "test", tuple(Document(f"{n}", period(n) * 20) for n in range(6)))
MANIFEST, TOKENS = make_manifest(
    DOCUMENTS, TOKENIZER, longest=max(LENGTHS), shortest=min(LENGTHS), targets=TARGETS, num_windows=12, seed=0
)


class Answering:
    """What scoring needs of a model; each is one of its own, as models are."""

    params: ClassVar[dict] = {}
    sampled_reach = landmarks = None

    @property
    def without_weights(self) -> "Answering":
        return self

    def __init__(self, definition: SimpleNamespace) -> None:
        self.definition = definition


def scored(logits: Callable[[jax.Array], jax.Array], length: int) -> tuple[Scores, dict[str, float]]:
    """Of a causal decoder that says `logits` [B, T, V] of rows [B, T]: its scores, and the value in each metric."""

    def apply(params, rows_BT, positions_BT, *, last, prefix_lengths_BT):
        return logits(rows_BT)[:, -last:]

    config = SimpleNamespace(architecture="causal_decoder")
    definition = SimpleNamespace(apply=apply, is_encoder_decoder=False, config=config)
    model = Answering(definition)
    items = MANIFEST.items(TOKENS, length, TOKENIZER.byte_lengths, given=None)
    scores = score(model, items, lambda done: None)
    pairings = {metric: Pairing(items, metric) for metric in METRICS}
    return scores, {name: ratio(p.per_document(scores), p.sizes_D) for name, p in pairings.items()}


@pytest.mark.parametrize("length", LENGTHS)
def test_a_uniform_model_needs_exactly_8_bits_a_byte(length: int) -> None:
    bytes_V = jnp.asarray(TOKENIZER.byte_lengths) > 0
    assert int(bytes_V.sum()) == 256
    scores, values = scored(
        lambda rows: jnp.broadcast_to(jnp.where(bytes_V, 0.0, -jnp.inf), (*rows.shape, len(bytes_V))), length
    )
    assert values["bpb"] == pytest.approx(8, abs=1e-6)
    assert scores.nll_NS.shape == scores.hits_NS.shape == (len(MANIFEST.windows), TARGETS)


def test_a_copying_model_is_always_right_where_it_can_look_back_and_each_target_is_scored_once() -> None:
    """In a window of 16 tokens the first targets' copies stand before it."""

    def copying(rows_BT: jax.Array) -> jax.Array:
        back = jnp.roll(rows_BT, PERIOD - 1, axis=1).at[:, : PERIOD - 1].set(TOKENIZER.bos)
        return 100.0 * jax.nn.one_hot(back, TOKENIZER.vocab_size)

    scores, values = scored(copying, 64)
    assert values["accuracy"] == 1
    assert values["bpb"] < 1e-6
    short, _ = scored(copying, 16)
    known = 16 - (PERIOD - 1)
    np.testing.assert_array_equal(
        short.hits_NS, np.tile(np.arange(TARGETS) >= TARGETS - known, (len(short.hits_NS), 1))
    )
    assert scores.hits_NS.size == len(MANIFEST.windows) * TARGETS


@pytest.mark.parametrize("length", LENGTHS)
def test_a_constant_answer_is_right_as_often_as_it_is_the_target(length: int) -> None:
    _, values = scored(lambda rows: 100.0 * jax.nn.one_hot(jnp.full(rows.shape, A), TOKENIZER.vocab_size), length)
    targets = np.stack([TOKENS[w.document][w.first : w.first + TARGETS] for w in MANIFEST.windows])
    assert 0 < values["accuracy"] == pytest.approx((targets == A).mean())


def test_a_target_without_a_finite_likelihood_is_no_hit() -> None:
    """A NaN counts as the largest logit: here that is the target's own, but for the last, which stands in no row."""

    def at_the_target(rows_BT):
        return jnp.where(jax.nn.one_hot(jnp.roll(rows_BT, -1, axis=1), TOKENIZER.vocab_size) > 0, jnp.nan, 0.0)

    scores, _ = scored(at_the_target, 16)
    assert not scores.hits_NS.any()
    assert not np.isfinite(scores.nll_NS[:, :-1]).any()


def test_weights_that_were_scored_are_let_go(tmp_path: Path) -> None:
    """A sweep's worker, or a notebook, scores one model after the other."""
    bare = untrained(tiny.config(tmp_path, model__num_layers=1))
    model = dataclasses.replace(bare, trained_params=jax.tree.map(jnp.copy, parameters(bare.definition)))
    items = MANIFEST.items(TOKENS, 16, TOKENIZER.byte_lengths, None)
    score(model, items, lambda done: None)
    weights = [weakref.ref(leaf) for leaf in jax.tree.leaves(model.trained_params)]
    assert all(one() is not None for one in weights)
    del model
    gc.collect()
    assert all(one() is None for one in weights)
