"""A cache holds values of their own width, whatever chooses among the keys beside them."""

import dataclasses

import jax
import numpy as np
import pytest
from initialised import parameters

from lmarch.config import ModelConfig
from lmarch.models.definition import ModelDefinition
from lmarch.registry import parse_variant

CONFIG = ModelConfig(num_layers=1, dim=16, num_heads=4, num_kv_heads=2, head_dim=8, value_head_dim=12, ffn_dim=16)
TOKENS = jax.random.randint(jax.random.key(1), (2, 30), 0, 40)
SELECTIONS = [
    "knn:local=8,top=3",
    "infllm:local=8,sinks=2,block=4,top=2,representatives=2",
    "quest:page=4,budget=12,prefill=selected",
    "moba:block=8,top=2",
    "landmark:block=4,top=1,local=1",
]


@pytest.mark.parametrize(
    "selection", [pytest.param(s, marks=[pytest.mark.slow] * ("quest" not in s)) for s in SELECTIONS]
)
def test_a_cache_is_the_model(selection: str) -> None:
    made = ModelDefinition(dataclasses.replace(CONFIG, trained_length=32, selection=parse_variant(selection)), 48)
    params = parameters(made)
    step, cache = jax.jit(made.step), made.start(params, 2, longest=30, chunk=1)
    out = []
    for t in range(TOKENS.shape[1]):
        of_token, cache = step(params, cache, TOKENS[:, t : t + 1])
        out.append(np.asarray(of_token))
    np.testing.assert_allclose(np.stack(out, 1), jax.jit(made.apply)(params, TOKENS), atol=1e-5)
