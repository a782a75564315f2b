"""Values of another width than keys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import learned_values, rope, untraced_attend

import lmarch
from lmarch.attention.spec import AttentionSpec
from lmarch.errors import UserError

LENGTH = 140  # more than a tile
HEADS, GROUPS, WIDTH, VALUES = 4, 2, 16, 24


def layer(**changes) -> AttentionSpec:
    return rope(head_dim=WIDTH, num_heads=HEADS, value_dim=VALUES, **changes)


def tensors(values: int = VALUES) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    shapes = (HEADS, WIDTH), (GROUPS, WIDTH), (GROUPS, values)
    return tuple(rng.standard_normal((1, LENGTH, *shape)) for shape in shapes)


def by_a_loop(q, k, v, spec: AttentionSpec, sinks: np.ndarray) -> np.ndarray:
    """The definition, pair by pair, in float64."""
    distance, visible, half = spec.effective_distance(LENGTH), spec.visible(LENGTH), WIDTH // 2
    frequencies = 10_000.0 ** (-np.arange(half) / half)
    out = np.zeros((1, LENGTH, HEADS, VALUES))
    for row, t, head in np.ndindex(1, LENGTH, HEADS):
        group, weights = head // (HEADS // GROUPS), {}
        for s in np.flatnonzero(visible[t]):
            query, key = (x[:half] + 1j * x[half:] for x in (q[row, t, head], k[row, s, group]))
            turned = query * np.exp(1j * distance[t, s] * frequencies)
            weights[s] = np.exp((turned * key.conj()).sum().real / WIDTH**0.5)
        total = sum(weights.values()) + np.exp(sinks[head])
        out[row, t, head] = sum(weight * v[row, s, group] for s, weight in weights.items()) / total
    return out


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("position", ["rope", "rerope:window=70"])
def test_outputs_are_those_of_a_loop_and_gradients_those_of_the_definition(position: str, sink: bool) -> None:
    """With grouped heads, with one branch and two, with a sink or none."""
    spec = layer(position=position, sink=sink)
    sinks = np.random.default_rng(1).standard_normal(HEADS) if sink else np.full(HEADS, -np.inf)
    inputs = tensors()

    def value_and_gradients(implementation: str):
        def loss(tensors, learned):
            out = lmarch.attend(*tensors, spec, implementation=implementation, learned=learned)
            return jnp.sin(out).sum(), out

        learned = {"sink_logit": jnp.asarray(sinks)} if sink else {}
        return jax.grad(loss, (0, 1), has_aux=True)([jnp.asarray(x) for x in inputs], learned)

    with jax.enable_x64(True):
        (gradients, out), (tiled_gradients, tiled_out) = (value_and_gradients(name) for name in ("dense", "tiled"))
    expected = by_a_loop(*inputs, spec, sinks)
    np.testing.assert_allclose(out, expected, atol=1e-10)
    np.testing.assert_allclose(tiled_out, expected, atol=1e-10)
    for ours, oracle in zip(*map(jax.tree.leaves, (tiled_gradients, gradients)), strict=True):
        np.testing.assert_allclose(ours, oracle, atol=1e-10)


EVERYWHERE = {
    "stepwise": {"position": "dynamic_ntk:form=stepwise"},
    "knn": {"selection": "knn:local=8,top=3"},
    "infllm": {"selection": "infllm:local=8,sinks=2,block=4,top=2,representatives=2"},
    "quest": {"selection": "quest:page=4,budget=12,prefill=selected"},
    "moba": {"selection": "moba:block=8,top=2"},
    "landmark": {"selection": "landmark:block=4"},
    "landmark, retrieving": {"selection": "landmark:block=4,top=1,local=1"},
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_more_channels_of_values_change_none_of_the_others(name: str) -> None:
    """Wherever weights come from, they do not depend on values."""
    spec = layer(**EVERYWHERE[name])
    q, k, v = (jnp.asarray(x, jnp.float32) for x in tensors())
    learned = learned_values(spec)
    wide = lmarch.attend(q, k, v, spec, learned=learned)
    as_wide_as_keys = lmarch.attend(q, k, v[..., :WIDTH], dataclasses.replace(spec, value_dim=WIDTH), learned=learned)
    assert wide.shape == (1, LENGTH, HEADS, VALUES)
    np.testing.assert_allclose(wide[..., :WIDTH], as_wide_as_keys, atol=1e-6)


def test_values_that_are_not_as_wide_as_the_spec_says_are_refused() -> None:
    with pytest.raises(UserError, match="do not fit"):
        untraced_attend(*map(jnp.asarray, tensors(values=WIDTH)), layer())
