"""Packed cross-attention in memory linear in both texts, with what is counted there: keys of a document, its last position."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from specs import rope

import lmarch
from lmarch.attention.tiles import TILE
from lmarch.config import EncoderConfig, ModelConfig
from lmarch.models.definition import ModelDefinition
from lmarch.models.text import Text

SHORT, LONG = 2048, 8192
MODEL = ModelConfig(
    architecture="encoder_decoder",
    encoder=EncoderConfig(num_layers=1),
    cross_positions="continuous",
    attention="tiled",
    num_layers=1,
    dim=16,
    num_heads=2,
    head_dim=8,
    ffn_dim=16,
    trained_length=LONG,
)


def ints(length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, length), jnp.int32)


def of_attention(length: int) -> tuple[Callable, tuple]:
    spec = rope(architecture="cross_attention", position={"name": "nope", "temperature": "log_n"})

    def gradient(tensors, ids, key_ids):
        def loss(tensors):
            return lmarch.attend(*tensors, spec, implementation="tiled", segment_ids=ids, key_segment_ids=key_ids).sum()

        return jax.grad(loss)(tensors)

    tensors = (jax.ShapeDtypeStruct((1, length, 4, 16), jnp.float32),) * 3
    return gradient, (tensors, ints(length), ints(length))


def of_continuous_positions(length: int) -> tuple[Callable, tuple]:
    made = ModelDefinition(MODEL, vocab_size=8)

    def logits(params, tokens, ids, source_ids):
        source = Text(tokens, segment_ids=source_ids)
        return made.apply(params, tokens, None, ids, source=source)

    return logits, (made.shapes, *[ints(length)] * 3)


@pytest.mark.parametrize("case", [of_attention, of_continuous_positions])
def test_memory_is_linear_in_the_texts(case: Callable) -> None:
    """Temporary memory at four times the tokens is four times, not 16 times: it holds nothing for each pair of tokens.

    It does hold the plans of tiles, of which XLA keeps up to 260 bytes for each pair of tiles at a time.
    """

    def temporary_bytes(length: int) -> int:
        function, arguments = case(length)
        return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary_bytes(SHORT), temporary_bytes(LONG)
    assert long < 4 * short + 300 * (LONG // TILE) ** 2
    assert long < LONG**2  # a single byte a pair would be more
