"""Tiles compute what the definition says, in values and gradients, for any length, packing and branches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import leaky_rerope, rerope, rope, sinks

from lmarch.attention.dense import dense
from lmarch.attention.operands import make_operands
from lmarch.attention.tiled import _plan, tiled

SPECS = {
    "rope": rope(),
    "nope": rope(position="nope"),
    "ntk": rope(position="ntk:factor=4"),
    "rerope": rerope(7),
    "leaky_rerope": leaky_rerope(20, 4),
    "sinks": sinks(rope(), 9, 2),
    "sinks, rerope": sinks(rerope(5), 9, 2),
}


def inputs(length: int, kv_heads: int, seed: int = 0) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    shapes = [(2, length, heads, 16) for heads in (4, kv_heads, kv_heads)]
    return tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)


def packing(length: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Segment ids of three documents a row, and positions that restart with each."""
    segments = np.sort(np.random.default_rng(seed).integers(0, 3, (2, length)), axis=-1)
    positions = np.stack([np.arange(length) - np.searchsorted(row, row) for row in segments])
    return jnp.asarray(segments, jnp.int32), jnp.asarray(positions, jnp.int32)


def in_tiles(operands, spec):
    return tiled(operands, spec, tile=16)


@functools.partial(jax.jit, static_argnums=(0, 4))
def value_and_gradients(attention, q, k, v, spec, positions, segments):
    def objective(q, k, v):
        out = attention(make_operands(q, k, v, spec, positions, segments), spec)
        return jnp.sin(out).mean(), out

    grads, out = jax.grad(objective, (0, 1, 2), has_aux=True)(q, k, v)
    return out, grads


@pytest.mark.parametrize("packed", ["one document", "masked", "masked and restarted", "restarted only"])
@pytest.mark.parametrize("length", [16, 67])
@pytest.mark.parametrize("name", SPECS)
def test_values_and_gradients_agree(name: str, length: int, packed: str) -> None:
    spec, (q, k, v) = SPECS[name], inputs(length, kv_heads=2)
    segments, positions = packing(length)
    segments = segments if "masked" in packed else None
    positions = positions if "restarted" in packed else None
    out, grads = value_and_gradients(dense, q, k, v, spec, positions, segments)
    tiled_out, tiled_grads = value_and_gradients(in_tiles, q, k, v, spec, positions, segments)
    np.testing.assert_allclose(tiled_out, out, atol=1e-5)
    for ours, oracle in zip(tiled_grads, grads, strict=True):
        np.testing.assert_allclose(ours, oracle, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_repeated_heads(kv_heads: int) -> None:
    q, k, v = inputs(33, kv_heads)
    repeated = [jnp.repeat(x, 4 // kv_heads, axis=2) for x in (k, v)]
    for attention in (dense, in_tiles):
        grouped = attention(make_operands(q, k, v, rope(), None, None), rope())
        full = attention(make_operands(q, *repeated, rope(), None, None), rope())
        np.testing.assert_allclose(grouped.reshape(full.shape), full, atol=1e-6)


def test_a_query_that_sees_nothing_gets_zeros_and_no_nan_gradient() -> None:
    spec = sinks(rope(), 4, 1)
    segments = jnp.asarray(np.arange(40)[None].repeat(2, 0), jnp.int32).at[:, 20:].set(7)
    blind = dataclasses.replace(spec, visibility=spec.visibility[1:])  # no token sees itself
    q, k, v = inputs(40, 4)
    for attention in (dense, in_tiles):
        out, grads = value_and_gradients(attention, q, k, v, blind, None, segments)
        assert np.all(np.asarray(out[:, :20]) == 0)
        assert all(np.isfinite(g).all() for g in grads)


def test_tiles_without_a_visible_pair_are_not_visited() -> None:
    visits, counts = _plan(rope(), 128, 16)
    assert counts.tolist() == list(range(1, 9))  # causal: half of the square
    _, counts = _plan(sinks(rope(), 16, 2), 128, 16)
    assert counts.tolist() == [1, 2, 3, 3, 3, 3, 3, 3]  # the window's two tiles and the sinks' one
    assert visits[2, :3].tolist() == [0, 1, 2]


def test_bfloat16_inputs_keep_float32_logits() -> None:
    q, k, v = inputs(67, 2)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    exact = dense(make_operands(*[x.astype(jnp.float32) for x in half], rope(), None, None), rope())
    for attention in (dense, in_tiles):
        out = attention(make_operands(*half, rope(), None, None), rope())
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05)


@pytest.mark.slow
def test_memory_is_linear_in_length() -> None:
    """Temporary memory of a forward and of a gradient at 16,384 tokens is 4 times that at 4,096, not 16 times."""
    spec = rope(head_dim=32)

    def temporary_bytes(function, length: int) -> int:
        q, k, v = (jax.ShapeDtypeStruct((1, length, 4, 32), jnp.float32) for _ in range(3))
        return jax.jit(function).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    def forward(q, k, v):
        return tiled(make_operands(q, k, v, spec, None, None), spec)

    def gradient(q, k, v):
        return jax.grad(lambda *x: forward(*x).sum(), (0, 1, 2))(q, k, v)

    for function in (forward, gradient):
        short, long = temporary_bytes(function, 4096), temporary_bytes(function, 16_384)
        print(f"{function.__name__}: {short / 2**20:.1f} MiB at 4,096 tokens, {long / 2**20:.1f} MiB at 16,384")
        assert long < 4.5 * short
        assert long < 16_384**2  # a single byte per pair would be more
