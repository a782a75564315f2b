"""Another mixer than attention: what a stack asks of one is all that it needs."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from initialised import parameters
from test_cache import assert_a_cache_is_the_model

from lmarch.attention.coordinates import PADDING
from lmarch.config import EncoderConfig, ModelConfig
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.models.layers import matrix
from lmarch.models.mixer import MIXERS, Mixed
from lmarch.models.text import Text
from lmarch.objectives import Batch
from lmarch.training.step import gradients

VOCABULARY = 32
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 30))


@dataclasses.dataclass(frozen=True)
class GatedRecurrence:
    """h_t = a_t h_{t-1} + (1 - a_t) v_t, a_t = sigmoid(W x_t): a running mean that begins anew with each document."""

    penalty: float = 0.0  # times the mean gate: what it adds to the loss

    def resolve(self, mask_kind: str) -> "GatedRecurrence":
        if mask_kind == "prefix":
            raise UserError("gated_recurrence reads one way: it has no prefix")
        return self

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


BASE = ModelConfig(num_layers=4, dim=16, num_heads=2, ffn_dim=16, init_std=0.5)
MIXES = {"mixer": {"name": "gated_recurrence", "penalty": 0.5}}


def definition(**changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(BASE, **{"layers": (MIXES, {}), **changes}), VOCABULARY)


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
    assert_a_cache_is_the_model(definition(architecture=architecture))


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 2),
        ({"scan_layers": False}, 2),
        ({"remat": "full"}, 2),
        ({"block": "parallel"}, 2),
        ({"first_layers": (MIXES,), "last_layers": ({},), "num_layers": 6}, 3),
        ({"architecture": "encoder_decoder", "encoder": EncoderConfig(layers=(MIXES, MIXES, MIXES, {}))}, 5),
    ],
    ids=str,
)
def test_what_it_adds_to_the_loss_comes_out_once_a_layer(changes: dict, count: int) -> None:
    """With all parameters zero every gate is a half."""
    made = definition(**changes)
    sources = (Text(jnp.asarray(TOKENS)),) * made.is_encoder_decoder

    def added(params):
        return made.outputs(params, Text(jnp.asarray(TOKENS)), *sources).added

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), made.shapes)
    assert float(jax.jit(added)(zeros)) == 0.5 * 0.5 * count


def test_what_it_adds_to_the_loss_has_a_gradient() -> None:
    made = definition()
    gradient = jax.jit(jax.grad(lambda params: made.outputs(params, Text(jnp.asarray(TOKENS))).added))(parameters(made))
    assert np.abs(gradient["stack"]["layers_0"]["gated_recurrence"]["gate"]).max() > 0


def test_it_is_refused_where_it_has_no_meaning() -> None:
    with pytest.raises(UserError, match="it has no prefix"):
        assert definition(architecture="prefix_decoder").sites


def test_its_name_stands_among_the_layers() -> None:
    assert definition().method == "1 x gated_recurrence:penalty=0.5 + 1 x rope"


def test_a_batch_in_parts_adds_as_much_to_the_loss(tmp_path: Path) -> None:
    made, random = definition(), np.random.default_rng(1)
    whole = dataclasses.replace(tiny.config(tmp_path), model=made.config)
    tokens = random.integers(0, VOCABULARY, (4, 31)).astype(np.int32)
    ones = np.ones((4, 30), np.float32)
    batch = Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        positions=None,
        segment_ids=np.zeros((4, 30), np.int32),
        weights=ones,
        target_bytes=ones.sum(1).astype(np.int32),
    )

    @jax.jit
    def in_parts(params):
        trains = [dataclasses.replace(whole.train, accumulate=parts) for parts in (1, 2)]
        return [gradients(dataclasses.replace(whole, train=train), made, params, batch)[0] for train in trains]

    expected, found = in_parts(parameters(made))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_it_costs_what_it_says() -> None:
    made, plain = definition(), ModelDefinition(dataclasses.replace(definition().config, layers=()), VOCABULARY)
    of_parameters = 6 * 100 * (made.num_parameters - plain.num_parameters)
    of_attention = 12 * 16 * 100**2 / 2
    assert made.training_flops(100) - plain.training_flops(100) == 2 * (12 * 16 * 100 - of_attention) + of_parameters
