"""On a CPU with one device rows of their own coordinates are computed one after the other: the numbers are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equations import equations
from specs import inputs, learned_values, make_operands, packing, rope

from lmarch.attention.dense import dense
from lmarch.attention.operands import Operands
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiled import tiled
from lmarch.content import Features

LENGTH, TILE = 67, 16


@pytest.fixture(autouse=True)
def one_device(monkeypatch) -> None:
    """The tests have eight, over which rows are spread in another way."""
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr("lmarch.attention.tiled.MANY_BRANCHES", 1)


def in_tiles(operands: Operands, spec: AttentionSpec):
    return tiled(operands, spec, tile=TILE)


def assert_alike(spec: AttentionSpec, features: Features | None = None, kv_heads: int = 2, **tokens) -> None:
    """Outputs, and all gradients of a sum over outputs and log-normalisers."""
    given = (inputs(LENGTH, kv_heads), learned_values(spec), features)

    @jax.jit
    def values_and_gradients(given):
        def objective(given, attention):
            tensors, learned, features = given
            operands = make_operands(*tensors, spec, learned=learned, **tokens)
            operands = operands._replace(features={} if features is None else {"bias": features})
            out, log_normaliser = attention(operands, spec)
            return jnp.sin(out).sum() + jnp.cos(log_normaliser).sum(), out

        return [jax.grad(objective, has_aux=True)(given, attention) for attention in (dense, in_tiles)]

    oracle, ours = values_and_gradients(given)
    for a, b in zip(*map(jax.tree.leaves, (ours, oracle)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(b).max()))


ARGUMENTS = {"segments": "segment_ids_BT", "positions": "positions_BT", "prefix": "prefix_BT"}


def tokens(*names: str) -> dict[str, jax.Array]:
    return {ARGUMENTS[name]: packing(LENGTH)[name] for name in names}


@pytest.mark.parametrize(
    "position",
    [
        "rope",
        "dual_chunk:chunk=12,max_position=15",
        "t5_bias:num_buckets=8,max_distance=20",
        "fire:threshold=8",
        "xpos:scale_base=32",
        "rope:temperature=ssmax",
    ],
)
def test_packed_rows_agree_with_the_definition(position: str) -> None:
    assert_alike(rope(position=position), **tokens("segments"))


@pytest.mark.parametrize("position", ["rerope:window=7", "alibi"])
def test_rows_at_positions_of_their_own_and_with_prefixes_agree(position: str) -> None:
    assert_alike(rope(position=position, architecture="prefix_decoder"), **tokens("positions", "segments", "prefix"))


def test_what_all_rows_share_is_every_row_s() -> None:
    """Positions are the same for all rows, documents are not, and one row's prefix is as long as it says."""
    spec = rope(position="rerope:window=7", architecture="prefix_decoder")
    shared = jnp.arange(LENGTH, dtype=jnp.int32)[None] // 2
    prefix = jnp.asarray([[5], [11]], jnp.int32)
    assert_alike(spec, positions_BT=shared, prefix_BT=prefix)
    assert_alike(spec, positions_BT=shared, segment_ids_BT=packing(LENGTH)["segments"], prefix_BT=prefix[:1])


def test_features_of_tokens_have_the_gradients_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    sums = jnp.asarray(-np.abs(rng.standard_normal((2, LENGTH, 4, 1))).cumsum(1), jnp.float32)
    assert_alike(rope(position="fox"), Features(sums, 0.5 * sums), **tokens("segments"))


def test_texts_of_two_lengths_agree() -> None:
    spec = rope(architecture="cross_attention", position="rope:temperature=log_n")
    (q, _, _), (_, k, v) = inputs(LENGTH), inputs(40, kv_heads=2)
    ids, key_ids = packing(LENGTH)["segments"], packing(40, seed=1)["segments"]

    @jax.jit
    def both(q, k, v):
        operands = make_operands(q, k, v, spec, segment_ids_BT=ids, key_segment_ids_BS=key_ids)
        return [attention(operands, spec)[0] for attention in (dense, in_tiles)]

    oracle, ours = both(q, k, v)
    np.testing.assert_allclose(ours, oracle, atol=1e-5)


def test_rows_that_are_alike_are_computed_together() -> None:
    """One loop over rows outside of those over tiles, where coordinates differ and only there."""

    def depth(**where) -> int:
        def attention(*tensors):
            return in_tiles(make_operands(*tensors, rope(), **where), rope())

        found = equations(jax.make_jaxpr(attention)(*inputs(LENGTH)).jaxpr)
        return sum(equation.primitive.name == "scan" for equation in found)

    assert depth(**tokens("segments")) == depth() + 1
