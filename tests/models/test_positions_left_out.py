"""Positions that are left out count from the start of each document, in everything that reads them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import parameters

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.models.definition import ModelDefinition
from lmarch.models.text import Text
from lmarch.registry import parse_variant

CONFIG = ModelConfig(num_layers=1, dim=16, num_heads=2, head_dim=8, ffn_dim=32, trained_length=32)
FIRST, SECOND = 9, 14  # tokens of two documents of a row
TOKENS = jax.random.randint(jax.random.key(1), (1, FIRST + SECOND), 0, 40)
SEGMENTS = jnp.asarray([[3] * FIRST + [8] * SECOND], jnp.int32)


def made(**changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(CONFIG, **changes), vocab_size=48)


def logits(model: ModelDefinition, *text, **options) -> np.ndarray:
    return np.asarray(jax.jit(functools.partial(model.apply, **options))(parameters(model), *text))


@pytest.mark.parametrize("position", ["sinusoidal", "learned:size=64", "rope"])
def test_a_packed_document_is_what_it_is_alone(position: str) -> None:
    model = made(position=parse_variant(position))
    packed = logits(model, TOKENS, None, SEGMENTS)
    np.testing.assert_allclose(packed[:, :FIRST], logits(model, TOKENS[:, :FIRST]), atol=1e-5)
    np.testing.assert_allclose(packed[:, FIRST:], logits(model, TOKENS[:, FIRST:]), atol=1e-5)


def test_a_packed_document_goes_on_from_the_end_of_its_own_source() -> None:
    """Continuous cross positions: of the second document the source is shorter than of the first, and comes before it."""
    model = made(
        architecture="encoder_decoder",
        encoder=EncoderConfig(num_layers=1),
        cross_positions="continuous",
        position={"name": "rope"},
    )
    of_second, of_first = (
        jax.random.randint(jax.random.key(seed), (1, size), 0, 40) for seed, size in ((2, 5), (3, 11))
    )
    source = Text(jnp.concatenate([of_second, of_first], 1), segment_ids=jnp.asarray([[8] * 5 + [3] * 11], jnp.int32))
    packed = logits(model, TOKENS, None, SEGMENTS, source=source)
    np.testing.assert_allclose(packed[:, :FIRST], logits(model, TOKENS[:, :FIRST], source=Text(of_first)), atol=1e-5)
    np.testing.assert_allclose(packed[:, FIRST:], logits(model, TOKENS[:, FIRST:], source=Text(of_second)), atol=1e-5)
