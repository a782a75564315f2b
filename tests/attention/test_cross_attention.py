"""Attention to another text: against a NumPy oracle, tiles against the definition; and soft-caps and logit scales."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import inputs, learned_values, make_operands, packing, rope, untraced_attend

from lmarch.attention.dense import dense
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiled import tiled
from lmarch.errors import UserError


def cross(position="nope", **kwargs) -> AttentionSpec:
    return rope(architecture="cross_attention", position=position, **kwargs)


def two_texts(queries: int, keys: int, groups: int = 2, seed: int = 0) -> tuple[jax.Array, ...]:
    q = inputs(queries, groups, seed)[0]
    return q, *inputs(keys, groups, seed + 1)[1:]


def ids(*lengths_and_ids: tuple[int, int]) -> jax.Array:
    """Segment ids [2, T], equal in both rows."""
    return jnp.asarray([np.repeat([i for _, i in lengths_and_ids], [n for n, _ in lengths_and_ids])] * 2, jnp.int32)


def in_tiles(operands, spec):
    return tiled(operands, spec, tile=16)


attend = jax.jit(
    untraced_attend, static_argnums=3, static_argnames="implementation"
)  # one program, not one per operation


@functools.partial(jax.jit, static_argnums=(0, 2))
def value_and_gradients(attention, tensors, spec, options):
    def objective(tensors):
        q, k, v, learned = tensors
        out, log_normaliser = attention(make_operands(q, k, v, spec, learned=learned, **options), spec)
        seen = log_normaliser > -1e29
        return jnp.sin(out).sum() + jnp.where(seen, jnp.cos(log_normaliser), 0.0).sum(), out

    gradients, out = jax.grad(objective, has_aux=True)(tensors)
    return out, gradients


def assert_alike(spec: AttentionSpec, tensors, **options) -> tuple[jax.Array, tuple]:
    """Tiles and the dense product, in values and gradients; returns those of the tiles."""
    tensors = (*tensors, learned_values(spec))
    out, gradients = value_and_gradients(dense, tensors, spec, options)
    tiled_out, tiled_gradients = value_and_gradients(in_tiles, tensors, spec, options)
    np.testing.assert_allclose(tiled_out, out, atol=1e-5)
    for ours, oracle in zip(*map(jax.tree.leaves, (tiled_gradients, gradients)), strict=True):
        np.testing.assert_allclose(ours, oracle, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(oracle).max()))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((gradients, tiled_gradients)))
    return tiled_out, tiled_gradients


def turned(x: np.ndarray, positions: np.ndarray, base: float = 10_000.0) -> np.ndarray:
    """R(p) x of [B, T, H, K], as adjacent complex numbers would turn, in float64."""
    half = x.shape[-1] // 2
    angles = positions[:, :, None, None] * base ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], axis=-1)


def oracle(q, k, v, visible, scale=None, factor=1.0, bias=0.0, cap=None) -> np.ndarray:
    """softmax(cap tanh((factor scale <q, k> + bias) / cap)) v over visible [B, T, S] in float64; nothing seen: zeros."""
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    logits = np.einsum("bthk,bshk->bhts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale) * factor + bias
    logits = logits if cap is None else cap * np.tanh(logits / cap)
    weights = np.exp(logits - logits.max()) * visible[:, None]
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshk->bthk", weights / np.where(total == 0, 1, total), v)


def in_float64(tensors) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in tensors]


SIZES = [(5, 40), *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((40, 5), (67, 33)))]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_texts_of_different_lengths(sizes: tuple[int, int]) -> None:
    """Every query sees every key, and tiles agree in values and gradients."""
    tensors = two_texts(*sizes)
    out, _ = assert_alike(cross(), tensors)
    everything = np.ones((2, *sizes), bool)
    np.testing.assert_allclose(out.reshape(tensors[0].shape), oracle(*in_float64(tensors), everything), atol=1e-5)


def test_documents_meet_by_id() -> None:
    """In whatever order and of whatever length; one without keys gets zeros, and nobody's gradient is touched by it."""
    tensors = two_texts(67, 33)
    queries, keys = ids((20, 4), (9, 0), (17, 2), (21, 1)), ids((7, 0), (6, 9), (15, 1), (5, 4))  # no key of 2
    out, (d_q, d_k, d_v, _) = assert_alike(cross(), tensors, segment_ids_BT=queries, key_segment_ids_BS=keys)
    visible = np.asarray(queries)[:, :, None] == np.asarray(keys)[:, None, :]
    np.testing.assert_allclose(out.reshape(tensors[0].shape), oracle(*in_float64(tensors), visible), atol=1e-5)
    alone, unread = np.asarray(queries) == 2, np.asarray(keys) == 9
    assert np.all(np.asarray(out)[alone] == 0)
    assert np.all(np.asarray(d_q)[alone] == 0)
    assert np.all(np.asarray(d_k)[unread] == 0)
    assert np.all(np.asarray(d_v)[unread] == 0)


def test_rotated_positions_are_those_of_both_texts() -> None:
    """Counted on from the source's end or anything else: the pair turns by the difference of its two positions."""
    rng = np.random.default_rng(0)
    at, source_at = rng.integers(20, 90, (2, 13)), rng.integers(0, 40, (2, 21))
    with jax.enable_x64(True):
        tensors = [jnp.asarray(x) for x in in_float64(two_texts(13, 21))]
        q, k, v = map(np.asarray, tensors)
        expected = oracle(turned(q, at), turned(k, source_at), v, np.ones((2, 13, 21), bool))
        for implementation in ("dense", "tiled"):
            places = {"positions": jnp.asarray(at, jnp.int32), "key_positions": jnp.asarray(source_at, jnp.int32)}
            out = attend(*tensors, cross("rope"), implementation=implementation, **places)
            np.testing.assert_allclose(out, expected, atol=1e-10)
    assert np.abs(expected - oracle(q, k, v, np.ones((2, 13, 21), bool))).max() > 0.01


@pytest.mark.slow
def test_rotated_packed_texts_agree() -> None:
    texts = packing(67), packing(33, seed=1)
    assert_alike(
        cross("rope"),
        two_texts(67, 33),
        positions_BT=texts[0]["positions"] + 11,
        segment_ids_BT=texts[0]["segments"],
        key_positions_BS=texts[1]["positions"],
        key_segment_ids_BS=texts[1]["segments"],
    )


LOG_N = {"name": "nope", "temperature": {"name": "log_n", "length": 4, "form": "trained"}}


def test_temperature_counts_the_keys_of_the_source_document() -> None:
    tensors = two_texts(30, 33)
    queries, keys = ids((12, 0), (18, 1)), ids((28, 1), (5, 0))
    n = np.where(np.asarray(queries) == 1, 28, 5)
    packed = attend(*tensors, cross(LOG_N), segment_ids=queries, key_segment_ids=keys)
    visible = np.asarray(queries)[:, :, None] == np.asarray(keys)[:, None, :]
    factor = (np.log(n) / np.log(4))[:, None, :, None]
    expected = oracle(*in_float64(tensors), visible, factor=factor)
    np.testing.assert_allclose(packed, expected, atol=1e-5)
    whole = attend(*tensors, cross(LOG_N))
    factor = np.log(33) / np.log(4)
    np.testing.assert_allclose(
        whole, oracle(*in_float64(tensors), np.ones((2, 30, 33), bool), factor=factor), atol=1e-5
    )


@pytest.mark.parametrize("temperature", [pytest.param("log_n", marks=pytest.mark.slow), "ssmax"])
def test_a_document_without_keys_has_finite_gradients_at_any_temperature(temperature: str) -> None:
    """Its count of keys is 0, whose logarithm is not a number to multiply with."""
    spec = cross("nope:temperature=ssmax" if temperature == "ssmax" else LOG_N)
    tensors, learned = two_texts(20, 17), learned_values(spec)
    options = {"segment_ids_BT": ids((9, 0), (11, -1)), "key_segment_ids_BS": ids((17, 0))}
    out, gradients = value_and_gradients(dense, (*tensors, learned), spec, options)
    assert np.all(np.asarray(out)[:, 9:] == 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


REFUSED = {
    "bias by distance": lambda: cross("alibi"),
    "maps distances by regions": lambda: cross("rerope:window=4"),
    "adds positions to embeddings": lambda: cross("learned:size=128"),
    "turns a text by its length": lambda: cross("dynamic_ntk"),
    "needs a causal layer": lambda: cross("xpos"),
    "is about one text": lambda: cross("rope", window="sliding:size=4"),
    "belong to cross-attention": lambda: untraced_attend(*inputs(6), rope(), key_positions=jnp.zeros((2, 6), int)),
    "key_segment_ids belong": lambda: untraced_attend(*inputs(6), rope(), key_segment_ids=jnp.zeros((2, 6), int)),
    "of both texts, or of none": lambda: untraced_attend(*two_texts(6, 4), cross(), segment_ids=jnp.zeros((2, 6), int)),
    "segment_ids and key_segment_ids": lambda: untraced_attend(
        *two_texts(6, 4), cross(), key_segment_ids=jnp.zeros((2, 4), int)
    ),
    "keys (2, 4)": lambda: untraced_attend(*two_texts(6, 4), cross("rope"), key_positions=jnp.zeros((2, 6), int)),
    "as many keys as queries": lambda: untraced_attend(*two_texts(6, 4), rope()),
    "keys are of 1 rows, queries of 2": lambda: untraced_attend(
        two_texts(6, 4)[0], *(x[:1] for x in two_texts(6, 4)[1:]), cross()
    ),
    "has no prefix": lambda: untraced_attend(*two_texts(6, 4), cross(), prefix_length=2),
    "knows positions 0": lambda: untraced_attend(
        *two_texts(6, 4), cross("rope"), key_positions=jnp.zeros((2, 4), int), implementation="fused"
    ),
    "softcap=0": lambda: rope(softcap=0.0),
    "logit_scale=-1": lambda: rope(logit_scale=-1.0),
    "soft-cap": lambda: untraced_attend(*inputs(6), rope(softcap=5.0), implementation="fused"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_means_nothing_is_refused_in_one_line(message: str) -> None:
    with pytest.raises(UserError) as caught:
        REFUSED[message]()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Chosen so that logits of a few units are bent: with inputs of unit variance, scale 1 gives them a deviation of 4.
CAPPED = {"softcap": 3.0, "logit_scale": 1.0}


def test_soft_caps_and_scales_are_their_formula() -> None:
    """c tanh((scale <q, k> + bias) / c), bias included."""
    tensors = inputs(23, 2)
    t, s = np.indices((23, 23))
    slopes = 2.0 ** (-8 * np.arange(1, 5) / 4)
    bias = (-slopes[:, None, None] * np.abs(t - s))[None]
    causal = np.broadcast_to(s <= t, (2, 23, 23))
    for options in (CAPPED, {"softcap": 3.0}, {"logit_scale": 0.7}):
        settings = {"scale": options.get("logit_scale"), "cap": options.get("softcap")}
        expected = oracle(*in_float64(tensors), causal, bias=bias, **settings)
        out = attend(*tensors, rope(position="alibi", **options), implementation="dense")
        np.testing.assert_allclose(out, expected, atol=1e-5)


WITH_BIAS, WITH_BRANCHES = {"position": "alibi"}, {"position": "rerope:window=4"}
WITH_BOTH = {"position": "alibi", "window": "lm_infinite:size=9,sinks=2"}


@pytest.mark.parametrize(
    "options", [WITH_BOTH, *(pytest.param(o, marks=pytest.mark.slow) for o in (WITH_BIAS, WITH_BRANCHES))], ids=str
)
def test_soft_caps_and_scales_agree_in_tiles(options: dict[str, str]) -> None:
    """Also their gradients: that of the tanh, with a bias beneath it or two branches beside each other."""
    spec = rope(**options, **CAPPED)
    assert len(spec.branches) == (1 if options == WITH_BIAS else 2)
    assert_alike(spec, inputs(40, 2), segment_ids_BT=packing(40)["segments"])


def test_auto_computes_the_soft_cap() -> None:
    tensors = inputs(23, 2)
    spec = rope(**CAPPED)
    auto, exact = (attend(*tensors, spec, implementation=name) for name in ("auto", "dense"))
    np.testing.assert_allclose(auto, exact, atol=1e-6)
    assert np.abs(exact - attend(*tensors, rope(logit_scale=1.0))).max() > 0.01
