"""Another mixer than attention: what a stack asks of one is all that it needs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_cache import assert_a_cache_is_the_model

from lmarch.attention.coordinates import PADDING
from lmarch.config import ModelConfig
from lmarch.models.definition import ModelDefinition
from lmarch.models.layers import matrix
from lmarch.models.mixer import MIXERS, Mixed
from lmarch.models.text import Text

VOCABULARY = 32
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 30))


@dataclasses.dataclass(frozen=True)
class GatedRecurrence:
    """h_t = a_t h_{t-1} + (1 - a_t) v_t, a_t = sigmoid(W x_t): a running mean that begins anew with each document."""

    penalty: float = 0.0  # times the mean gate: what it adds to the loss

    def module(self, config: ModelConfig, spec: Any, residual_scale: float, *, rngs: nnx.Rngs) -> "Recurrence":
        return Recurrence(config, self, residual_scale, rngs=rngs)

    def flops(self, config: ModelConfig, tokens: int, prefix: int) -> float:
        return 12.0 * config.dim * tokens


class Recurrence(nnx.Module):
    def __init__(self, config: ModelConfig, method: GatedRecurrence, residual_scale: float, *, rngs: nnx.Rngs) -> None:
        D = config.dim
        self.method, self.dim = method, D
        self.gate, self.value = (matrix(rngs, (D, D), ("embed", "mlp"), fan_in=D) for _ in range(2))
        self.out = matrix(rngs, (D, D), ("mlp", "embed"), fan_in=D, scale=residual_scale)

    def __call__(self, x_BTD: jax.Array, context: Any, shared: Any, state: Any = None) -> Mixed:
        gate_BTD = jax.nn.sigmoid(x_BTD @ self.gate[...])
        values_BTD = (1 - gate_BTD) * (x_BTD @ self.value[...])
        at = context.at
        begins, is_padding = (jnp.broadcast_to(x, x_BTD.shape[:2]) for x in (at.ranks == 0, at.indices == PADDING))

        def token(h_BD: jax.Array, of_token: Any) -> tuple[jax.Array, jax.Array]:
            gate_BD, value_BD, begins_B, padding_B = of_token
            new_BD = jnp.where(begins_B[:, None], 0.0, gate_BD * h_BD) + value_BD
            h_BD = jnp.where(padding_B[:, None], h_BD, new_BD)
            return h_BD, h_BD

        start_BD = jnp.zeros((len(x_BTD), self.dim)) if state is None else state
        by_token = jax.tree.map(lambda x: x.swapaxes(0, 1), (gate_BTD, values_BTD, begins, is_padding))
        after_BD, h_TBD = jax.lax.scan(token, start_BD, by_token)
        added = self.method.penalty * gate_BTD.mean()
        return Mixed(h_TBD.swapaxes(0, 1) @ self.out[...], added, None if state is None else after_BD)

    def empty_state(self, rows: int, *, longest: int | None, chunk: int, placed: bool) -> jax.Array:
        return jnp.zeros((rows, self.dim))


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    monkeypatch.setattr(MIXERS, "_variants", {**MIXERS._variants})
    MIXERS.register("gated_recurrence")(GatedRecurrence)


def definition(architecture: str = "causal_decoder", **mixer) -> ModelDefinition:
    layers = ({"mixer": {"name": "gated_recurrence", **mixer}}, {})
    config = ModelConfig(
        architecture=architecture, num_layers=4, layers=layers, dim=16, num_heads=2, ffn_dim=16, init_std=0.5
    )
    return ModelDefinition(config, VOCABULARY)


def test_a_hybrid_is_as_causal_as_a_decoder() -> None:
    made = definition()
    params, other = made.init(jax.random.key(0)), TOKENS.copy()
    other[:, 12] = (other[:, 12] + 5) % VOCABULARY
    before, after = (np.asarray(jax.jit(made.apply)(params, tokens)) for tokens in (TOKENS, other))
    assert np.array_equal(before[:, :12], after[:, :12])
    assert (np.abs(before[:, 13:] - after[:, 13:]).max((0, 2)) > 0).all()


def test_documents_of_a_row_are_alone_in_it() -> None:
    made = definition()
    params = made.init(jax.random.key(0))
    segments = jnp.asarray([[0] * 11 + [1] * 19] * 2)
    packed = jax.jit(lambda tokens: made.apply(params, tokens, segment_ids_BT=segments))(TOKENS)
    np.testing.assert_allclose(packed[:, 11:], jax.jit(made.apply)(params, TOKENS[:, 11:]), atol=1e-5)


@pytest.mark.parametrize("architecture", ["causal_decoder", "encoder_decoder"])
def test_a_cache_is_the_model(architecture: str) -> None:
    assert_a_cache_is_the_model(definition(architecture))


@pytest.mark.parametrize("options", [{}, {"scan_layers": False}, {"remat": "full"}], ids=str)
def test_what_it_adds_to_the_loss_comes_out_once_a_layer(options: dict) -> None:
    made = definition(penalty=0.5)
    made = ModelDefinition(dataclasses.replace(made.config, **options), VOCABULARY)
    params = made.init(jax.random.key(0))

    def added(params):
        return made.outputs(params, Text(jnp.asarray(TOKENS))).added

    value, gradient = jax.jit(jax.value_and_grad(added))(params)
    assert 0.5 * 2 * 0.2 < float(value) < 0.5 * 2 * 0.8  # two such layers, whose gates are about a half
    assert np.abs(gradient["stack"]["layers_0"]["gated_recurrence"]["gate"]).max() > 0
    assert made.outputs(params, Text(jnp.asarray(TOKENS))).logits_BTV.shape == (2, 30, VOCABULARY)


def test_it_costs_what_it_says() -> None:
    made, plain = definition(), ModelDefinition(dataclasses.replace(definition().config, layers=()), VOCABULARY)
    of_parameters = 6 * 100 * (made.num_parameters - plain.num_parameters)
    of_attention = 12 * 16 * 100**2 / 2
    assert made.training_flops(100) - plain.training_flops(100) == 2 * (12 * 16 * 100 - of_attention) + of_parameters
