"""Tiles compute what the definition says, in values and gradients, for any method, length, packing, prefix and window."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import METHODS, allowed, inputs, learned_values, make_operands, packing, rope

from lmarch.attention.dense import dense
from lmarch.attention.places import NOWHERE, make_places
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiled import _make_tokens, _Static, _visits, tiled

# One of every shape of branches and visibility.
SHAPES = {
    "rope": rope(),
    "nope": rope(position="nope"),
    "rerope": rope(position="rerope:window=7"),
    "leaky_rerope": rope(position="leaky_rerope:window=20,k=4"),
    "dual_chunk": rope(position="dual_chunk:chunk=12,max_position=15"),
    "streaming": rope(window="streaming:size=8,sinks=2"),
    "lm_infinite, sinks where they are": rope(window="lm_infinite:size=9,sinks=2,capped=False"),
    "lm_infinite": rope(window="lm_infinite:size=9,sinks=2,ceiling=5"),
    "rerope, streaming": rope(position="rerope:window=5", window="streaming:size=8,sinks=2"),
    "fire, streaming": rope(position="fire:threshold=8", window="streaming:size=8,sinks=2"),
    "t5_bias, lm_infinite": rope(position="t5_bias:num_buckets=8,max_distance=20", window="lm_infinite:size=9,sinks=2"),
}


def in_tiles(operands, spec):
    return tiled(operands, spec, tile=16)


@functools.partial(jax.jit, static_argnums=(0, 2))
def value_and_gradients(attention, tensors, spec, positions=None, segments=None, prefix=None):
    """Outputs, and gradients of a sum over outputs and log-normalisers in everything that can be learned."""

    def objective(tensors):
        q, k, v, learned = tensors
        out, log_normaliser = attention(make_operands(q, k, v, spec, positions, segments, prefix, learned), spec)
        seen = log_normaliser > -1e29
        return jnp.sin(out).sum() + jnp.where(seen, jnp.cos(log_normaliser), 0.0).sum(), out

    gradients, out = jax.grad(objective, has_aux=True)(tensors)
    return out, gradients


def assert_alike(spec: AttentionSpec, length: int, kv_heads: int = 2, **tokens) -> None:
    tensors = (*inputs(length, kv_heads), learned_values(spec))
    out, gradients = value_and_gradients(dense, tensors, spec, **tokens)
    tiled_out, tiled_gradients = value_and_gradients(in_tiles, tensors, spec, **tokens)
    np.testing.assert_allclose(tiled_out, out, atol=1e-5)
    for ours, oracle in zip(*map(jax.tree.leaves, (tiled_gradients, gradients)), strict=True):
        # A sum over thousands of float32 terms of both signs: rounding is relative to the largest.
        np.testing.assert_allclose(ours, oracle, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(oracle).max()))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


PACKINGS = [(67, "masked and restarted")] + [
    pytest.param(length, packed, marks=pytest.mark.slow)
    for length, packed in [(16, "one document"), (67, "one document"), (67, "masked"), (67, "restarted only")]
]


@pytest.mark.parametrize(("length", "packed"), PACKINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_agree(name: str, length: int, packed: str) -> None:
    made = packing(length)
    segments = made["segments"] if "masked" in packed else None
    positions = made["positions"] if "restarted" in packed else None
    assert_alike(SHAPES[name], length, positions=positions, segments=segments)


# One of each kind in the fast tests, all in the slow ones.
KINDS = ("partial", "xpos", "self_extend", "t5_bias", "fire", "dynamic_ntk", "log_n", "ssmax")


def slow_unless_first_of_its_kind(variants: list[str]) -> list:
    return [v if v.partition(":")[0] in KINDS else pytest.param(v, marks=pytest.mark.slow) for v in variants]


@pytest.mark.parametrize("method", slow_unless_first_of_its_kind(METHODS))
def test_every_method_agrees_in_packed_rows(method: str) -> None:
    made = packing(67)
    del made["prefix"]
    assert_alike(rope(position=method), 67, **made)


TEMPERATURES = ["log_n", "log_n:form=trained", "yarn", "dual_chunk", "llama4:floor_scale=8", "ssmax"]


@pytest.mark.parametrize("temperature", slow_unless_first_of_its_kind(TEMPERATURES))
def test_every_temperature_agrees(temperature: str) -> None:
    made = packing(40)
    del made["prefix"]
    assert_alike(rope(position={"name": "rerope", "window": 9, "temperature": temperature}), 40, **made)


BOTH_KINDS = ("rope", "rerope", "self_extend", "t5_bias", "alibi")
BOTH_WAYS = [
    pytest.param(architecture, method, marks=[] if method.partition(":")[0] in BOTH_KINDS else [pytest.mark.slow])
    for architecture in ("prefix_decoder", "encoder")
    for method in allowed(architecture)
]


@pytest.mark.parametrize(("architecture", "method"), BOTH_WAYS)
def test_every_method_agrees_where_later_keys_are_seen(architecture: str, method: str) -> None:
    made = packing(40)
    if architecture == "encoder":
        del made["prefix"]
    assert_alike(rope(position=method, architecture=architecture), 40, **made)


@pytest.mark.slow
@pytest.mark.parametrize("window", ["sliding:size=6", "sliding:size=6,prefix=visible", "streaming:size=6,sinks=2"])
def test_windows_agree_in_prefix_decoders(window: str) -> None:
    assert_alike(rope(position="rerope:window=4", architecture="prefix_decoder", window=window), 50, **packing(50))


@pytest.mark.parametrize("kv_heads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_grouped_heads_equal_repeated_heads(kv_heads: int) -> None:
    q, k, v = inputs(33, kv_heads)
    repeated = [jnp.repeat(x, 4 // kv_heads, axis=2) for x in (k, v)]
    for position in ("rope", "alibi"):  # a bias per query head must find its head
        spec = rope(position=position)
        for attention in (dense, in_tiles):
            grouped, _ = attention(make_operands(q, k, v, spec), spec)
            full, _ = attention(make_operands(q, *repeated, spec), spec)
            np.testing.assert_allclose(grouped.reshape(full.shape), full, atol=1e-6)


def test_a_query_that_sees_nothing_gets_zeros_and_no_nan_gradient() -> None:
    spec = rope(window="streaming:size=4,sinks=1")
    blind = dataclasses.replace(spec.visibility, always=spec.visibility.always[1:])  # no token sees itself
    spec = dataclasses.replace(spec, visibility=blind)
    tensors = (*inputs(40), {})
    segments = jnp.asarray(np.arange(40)[None].repeat(2, 0), jnp.int32).at[:, 20:].set(77)
    for attention in (dense, in_tiles):
        out, gradients = value_and_gradients(attention, tensors, spec, segments=segments)
        assert np.all(np.asarray(out[:, :20]) == 0)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def visited(spec: AttentionSpec, length: int, segments=None, prefix=None, filled: int | None = None) -> list[list[int]]:
    """The key tiles that every query tile of 16 visits; of a cache, only the first `filled` slots hold something."""
    at = make_places(length, segment_ids=segments, layout=spec.visibility.layout)
    keys_at = at if filled is None else at._replace(indices=jnp.where(at.indices < filled, at.indices, NOWHERE))
    in_prefix = None if prefix is None else at.indices < prefix
    tokens = _make_tokens(at, None, 16), _make_tokens(keys_at, in_prefix, 16)
    made = (_visits(_Static(spec, None), tokens, jnp.asarray(n)) for n in range(length // 16))
    return [np.asarray(order)[: int(count)].tolist() for order, count in made]


def test_tiles_without_a_visible_pair_are_not_visited() -> None:
    assert visited(rope(), 128) == [list(range(n + 1)) for n in range(8)]  # causal: half of the square
    # A window's two tiles, and the sinks' one.
    assert visited(rope(window="streaming:size=16,sinks=2"), 80) == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert visited(rope(window="sliding:size=16"), 64) == [[0], [0, 1], [1, 2], [2, 3]]
    # Parallel windows see themselves, and the task behind them everything.
    parallel = rope(window="parallel:size=32,task_length=16")
    assert visited(parallel, 80) == [[0], [0, 1], [2], [2, 3], [0, 1, 2, 3, 4]]
    assert visited(rope(architecture="encoder", window="parallel:size=32"), 64) == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_tiles_of_empty_slots_are_not_visited() -> None:
    assert visited(rope(), 64, filled=20) == [[0], [0, 1], [0, 1], [0, 1]]
    assert visited(rope(architecture="encoder"), 48, filled=16) == [[0], [0], [0]]


def test_tiles_of_other_documents_and_beyond_the_prefix_are_not_visited() -> None:
    segments = jnp.asarray([[0] * 32 + [1] * 32])
    assert visited(rope(), 64, segments=segments) == [[0], [0, 1], [2], [2, 3]]
    prefix = rope(architecture="prefix_decoder")
    assert visited(prefix, 64, prefix=20) == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_bfloat16_inputs_keep_float32_logits() -> None:
    half = [x.astype(jnp.bfloat16) for x in inputs(67, 2)]
    exact, _ = dense(make_operands(*[x.astype(jnp.float32) for x in half], rope()), rope())
    for attention in (dense, in_tiles):
        out, log_normaliser = attention(make_operands(*half, rope()), rope())
        assert out.dtype == jnp.bfloat16
        assert log_normaliser.dtype == jnp.float32
        np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["rope", "rerope:window=512", "t5_bias"])
def test_memory_is_linear_in_length(position: str) -> None:
    """Temporary memory of a forward and of a gradient at 16,384 tokens is 4 times that at 4,096, not 16 times."""
    spec = rope(head_dim=32, position=position, trained_length=1024, target_length=1024)
    learned = learned_values(spec)

    def forward(q, k, v):
        return tiled(make_operands(q, k, v, spec, learned=learned), spec)[0]

    def gradient(q, k, v):
        return jax.grad(lambda *x: forward(*x).sum(), (0, 1, 2))(q, k, v)

    def temporary_bytes(function, length: int) -> int:
        q, k, v = (jax.ShapeDtypeStruct((1, length, 4, 32), jnp.float32) for _ in range(3))
        return jax.jit(function).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    for function in (forward, gradient):
        short, long = temporary_bytes(function, 4096), temporary_bytes(function, 16_384)
        print(f"{function.__name__}: {short / 2**20:.1f} MiB at 4,096 tokens, {long / 2**20:.1f} MiB at 16,384")
        assert long < 4.5 * short
        assert long < 16_384**2  # a single byte per pair would be more
