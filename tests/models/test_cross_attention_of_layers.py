"""A layer of an encoder-decoder that has its own heads has them in its cross-attention too."""

import dataclasses

import jax
import numpy as np
import pytest
from initialised import parameters

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.models.definition import ModelDefinition
from lmarch.models.text import Text

CONFIG = ModelConfig(
    architecture="encoder_decoder",
    encoder=EncoderConfig(num_layers=1),
    num_layers=2,
    dim=16,
    num_heads=2,
    head_dim=8,
    ffn_dim=32,
    trained_length=32,
)
TOKENS = jax.random.randint(jax.random.key(1), (2, 20), 0, 40)
SOURCE = Text(jax.random.randint(jax.random.key(2), (2, 13), 0, 40))


def definition(**changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(CONFIG, **changes), vocab_size=48)


def logits(made: ModelDefinition, params) -> np.ndarray:
    return np.asarray(jax.jit(lambda params: made.apply(params, TOKENS, source=SOURCE))(params))


SIZES = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "value_head_dim": 12,
    "sink": True,
    "attention_softcap": 2.0,
}
SETTINGS = [{}, {"cross_positions": "continuous"}, {"cross_temperature": {"name": "ssmax"}}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_all_layers_with_the_same_heads_of_their_own_are_a_model_with_those(settings: dict) -> None:
    """Scale, rotation, sink, temperature and all."""
    encoder = EncoderConfig(num_layers=1, layers=(SIZES,))
    own, whole = definition(layers=(SIZES,), encoder=encoder, **settings), definition(**SIZES, **settings)
    assert own.shapes == whole.shapes
    params = jax.tree.map(lambda x: x + 0.1, parameters(whole))
    np.testing.assert_array_equal(logits(own, params), logits(whole, params))
    assert own.training_flops(20, source=13) == whole.training_flops(20, source=13)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_cache_is_the_model_where_layers_have_different_heads(settings: dict) -> None:
    made = definition(layers=(SIZES, {}), **settings)
    params = parameters(made)

    step = jax.jit(made.step)
    cache = jax.jit(lambda params: made.start(params, 2, longest=20, chunk=1, source=SOURCE))(params)
    out = []
    for t in range(TOKENS.shape[1]):
        of_token, cache = step(params, cache, TOKENS[:, t : t + 1])
        out.append(np.asarray(of_token))
    np.testing.assert_allclose(np.stack(out, 1), logits(made, params), atol=1e-5)
