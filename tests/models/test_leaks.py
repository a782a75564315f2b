"""What a token may change and what it may not, to the last bit, through whole models and the rows that they are fed.

Each model here has a layer of every kind, one after the other, so that what any of them lets through reaches the logits.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_architectures import random_parameters

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.text import Text
from lmarch.objectives import Batch, Example, Examples, collate_pairs, collate_stream
from lmarch.training.step import batch_outputs

VOCABULARY, START, PAD = 40, 37, 38
SIZES = ((20, 25), (31, 14), (12, 30))  # tokens of inputs and of targets of each document
LENGTH, SOURCE_LENGTH, MORE = 150, 140, 24  # of rows: more than a tile, with padding at the end

LOG_N = {"name": "log_n", "form": "trained", "length": 16}
METHODS = {
    "rope": {"name": "rope"},
    "t5_bias": {"name": "t5_bias", "num_buckets": 8, "max_distance": 20},
    "rerope": {"name": "rerope", "window": 4},
    "alibi": {"name": "alibi"},
    "log_n": {"name": "rope", "temperature": LOG_N},
}
ONE_OF_EACH = ("t5_bias", "rerope", "alibi", "log_n")  # the last is also rope
ARCHITECTURES = ("causal_decoder", "prefix_decoder", "encoder_decoder")
SMALL = ModelConfig(dim=16, num_heads=2, head_dim=8, ffn_dim=32, trained_length=64)

Row = Batch[np.ndarray]


class Fed(NamedTuple):
    """A model, and what it makes of rows."""

    definition: ModelDefinition
    params: Parameters
    run: Any
    encode: Any

    def logits(self, row: Row) -> np.ndarray:
        """[T, V]."""
        return np.asarray(self.run(self.params, jax.tree.map(lambda column: jnp.asarray(column)[None], row))[0])

    def states(self, row: Row) -> np.ndarray:
        """The encoder's output [S, D]."""
        sides = (row.source_tokens, row.source_positions, row.source_segment_ids)
        tokens, positions, ids = (jnp.asarray(column)[None] for column in sides)
        return np.asarray(self.encode(self.params, Text(tokens, positions, ids))[0])


@functools.cache
def made(architecture: str, methods: tuple[str, ...], attention: str = "dense", continuous: bool = False) -> Fed:
    layers = tuple({"position": METHODS[name]} for name in methods)
    encoder = EncoderConfig(layers=layers) if architecture == "encoder_decoder" else EncoderConfig()
    options = {"architecture": architecture, "num_layers": len(layers), "layers": layers, "encoder": encoder}
    if continuous:
        options["cross_positions"] = "continuous"
    elif architecture == "encoder_decoder":
        options["cross_temperature"] = {**LOG_N, "form": "post_hoc"}
    definition = ModelDefinition(dataclasses.replace(SMALL, attention=attention, **options), VOCABULARY)

    def encode(params, source):
        return nnx.merge(definition._abstract[0], params).encode(source)[0]

    def run(params, batch):
        return batch_outputs(definition, params, batch).logits_BTV

    return Fed(definition, random_parameters(definition), jax.jit(run), jax.jit(encode))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=["dense", pytest.param("tiled", marks=pytest.mark.slow)])
def fed(request, architecture: str) -> Fed:
    return made(architecture, ONE_OF_EACH, request.param)


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(*(rng.integers(0, 36, n).astype(np.int32) for n in sizes)) for sizes in SIZES]


def laid_out(architecture: str, said: list[Example], more: int = 0) -> Row:
    """The row that training would make of the examples, `more` tokens longer."""
    byte_lengths, counts = np.ones(VOCABULARY, np.int32), np.array([len(said)])
    if architecture == "encoder_decoder":
        lengths = SOURCE_LENGTH + more, LENGTH + more
        batch = collate_pairs(Examples.of(said), counts, *lengths, byte_lengths, start=START, pad=PAD)
    else:
        batch = collate_stream(Examples.of(said), counts, LENGTH + more, byte_lengths, PAD)
        if architecture == "causal_decoder":
            batch = batch._replace(prefix_lengths=None)
    return jax.tree.map(lambda rows: rows[0], batch)


def with_token(row: Row, index: int, name: str = "tokens") -> Row:
    """The row with another token at one place."""
    tokens = getattr(row, name).copy()
    tokens[index] = (tokens[index] + 5) % 36
    return row._replace(**{name: tokens})


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where an output differs in any bit: bool [T]."""
    return (before != after).any(-1)


def places(row: Row, document: int, name: str = "segment_ids") -> np.ndarray:
    return np.flatnonzero(getattr(row, name) == document)


def test_a_token_changes_what_may_see_it_and_nothing_else(architecture: str, fed: Fed) -> None:
    """Of its own document: itself and what follows, and all of it where the token is in the prefix."""
    row = laid_out(architecture, examples())
    before, index = fed.logits(row), np.arange(LENGTH)
    own, prefix = places(row, 1), SIZES[1][0]
    for offset in (0, 10, prefix - 1, prefix, prefix + 8):
        if offset >= len(own):
            continue
        at = own[offset]
        follows = index >= (own[0] if architecture == "prefix_decoder" and offset < prefix else at)
        expected = (row.segment_ids == 1) & follows
        assert np.array_equal(changed(before, fed.logits(with_token(row, at))), expected), offset


def test_a_source_token_changes_its_own_document_in_encoder_and_decoder_only() -> None:
    fed = made("encoder_decoder", ONE_OF_EACH)
    row = laid_out("encoder_decoder", examples())
    before, states = fed.logits(row), fed.states(row)
    for document in range(3):
        at = places(row, document, "source_segment_ids")[5]
        other = with_token(row, at, "source_tokens")
        assert np.array_equal(changed(before, fed.logits(other)), row.segment_ids == document)
        assert np.array_equal(changed(states, fed.states(other)), row.source_segment_ids == document)
        assert np.array_equal(states, fed.states(with_token(row, 5)))  # the encoder never reads the target


def test_a_document_changes_no_other(architecture: str, fed: Fed) -> None:
    """All of it at once, targets and source: its neighbours on both sides stay as they are, to the last bit."""
    said = examples()
    row = laid_out(architecture, said)
    before = fed.logits(row)
    for document in range(3):
        inputs, targets, *_ = said[document]
        other = Example((inputs + 7) % 36, (targets + 11) % 36)
        after = fed.logits(laid_out(architecture, [*said[:document], other, *said[document + 1 :]]))
        own = row.segment_ids == document
        assert not changed(before, after)[~own].any(), document
        assert changed(before, after)[own][1:].all(), document


def test_what_padding_holds_changes_nothing(architecture: str, fed: Fed) -> None:
    row = laid_out(architecture, examples())
    other, rng = row, np.random.default_rng(1)
    for side in ("", "source_"):
        if getattr(row, f"{side}tokens") is None:
            continue
        padding = getattr(row, f"{side}segment_ids") == -1
        assert padding.sum() > 10
        for name, most in (("tokens", 36), ("positions", 500)):
            noise = rng.integers(0, most, padding.shape, dtype=np.int32)
            other = other._replace(**{side + name: np.where(padding, noise, getattr(row, side + name))})
    moved = changed(fed.logits(row), fed.logits(other))
    assert np.array_equal(moved, row.segment_ids == -1)


@pytest.mark.parametrize(
    "name", [n if n == "prefix_decoder" else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES]
)
def test_more_padding_changes_nothing(name: str) -> None:
    """Equal to rounding only: XLA adds up a longer row in another order."""
    fed = made(name, ("t5_bias",))
    short, long = (fed.logits(laid_out(name, examples(), more)) for more in (0, MORE))
    real = laid_out(name, examples()).segment_ids >= 0
    np.testing.assert_allclose(long[:LENGTH][real], short[real], atol=2e-6 * np.abs(short).max(), rtol=0)


def test_positions_continued_from_the_source_leak_nothing() -> None:
    """A document's place among the source's tokens is counted from its own source, whatever the others' lengths."""
    fed = made("encoder_decoder", ("rope",), continuous=True)
    test_a_document_changes_no_other("encoder_decoder", fed)
    said = examples()
    rows = [laid_out("encoder_decoder", [Example(said[0].inputs[:n], said[0].targets), *said[1:]]) for n in (20, 13)]
    logits = [fed.logits(row)[places(row, 1)] for row in rows]
    np.testing.assert_allclose(*logits, atol=2e-6 * np.abs(logits[0]).max(), rtol=0)
