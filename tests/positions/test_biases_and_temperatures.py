"""Biases, temperatures and absolute embeddings against golden numbers and closed forms."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.branches import MaskKind
from lmarch.errors import UserError
from lmarch.positions import PositionContext, build_position
from lmarch.positions.biases import alibi_slopes, t5_bucket
from lmarch.positions.temperatures import TEMPERATURES


def bias(
    variant: Any, heads: int, t: Any, s: Any, learned: dict | None = None, mask_kind: MaskKind = "causal"
) -> np.ndarray:
    """[H, T, S] for positions t [T] and s [S]."""
    made = build_position(variant, PositionContext(16, 1e4, 512, 512, heads, mask_kind)).bias
    values = {name: jnp.asarray(value) for name, value in (learned or {}).items()}
    return np.asarray(made(values, jnp.asarray(t)[None, :, None], jnp.asarray(s)[None, None, :]))[0]


def square(
    variant: Any, heads: int, length: int, learned: dict | None = None, mask_kind: MaskKind = "causal"
) -> np.ndarray:
    return bias(variant, heads, np.arange(length), np.arange(length), learned, mask_kind)


@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (8, 20), (32, 32)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_t5_buckets_equal_those_of_hugging_face(buckets: int, longest: int, bidirectional: bool, golden) -> None:
    relative = golden["t5_bias_hf/bucket.relative_position"]
    ours = t5_bucket(jnp.asarray(relative), bidirectional, buckets, longest)
    assert np.array_equal(ours, golden[f"t5_bias_hf/bucket.nb{buckets}.md{longest}.bi{int(bidirectional)}"])


def test_t5_buckets_use_the_full_range_and_never_leave_it() -> None:
    relative = np.concatenate([np.arange(-400, 401), [-(10**6), 10**6]])
    for bidirectional in (False, True):
        ids = np.asarray(t5_bucket(jnp.asarray(relative), bidirectional, 32, 128))
        # A key at distance 0 is not after its query, so the first id of that half is never used.
        assert set(ids) == set(range(32)) - ({16} if bidirectional else set())
        assert (np.diff(ids[:400]) <= 0).all()  # the closer, the smaller


@pytest.mark.parametrize("decoder", [0, 1])
def test_t5_bias_equals_that_of_hugging_face(decoder: int, golden) -> None:
    learned = {"t5_bias": golden[f"t5_bias_hf/weight.dec{decoder}"]}
    mask_kind: MaskKind = "causal" if decoder else "bidirectional"
    ours = square("t5_bias", 4, 16, learned, mask_kind)
    np.testing.assert_allclose(ours, golden[f"t5_bias_hf/bias.dec{decoder}.q16.k16.past0"], atol=1e-6)
    row = bias("t5_bias", 4, [39], np.arange(40), learned, mask_kind)
    np.testing.assert_allclose(row, golden[f"t5_bias_hf/bias.dec{decoder}.q1.k40.past39"], atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8, 12, 16, 40])
def test_alibi_slopes_equal_the_published_ones(heads: int, golden) -> None:
    np.testing.assert_allclose(alibi_slopes(heads), golden[f"alibi_hf/slopes.h{heads}"], rtol=1e-12)


def test_alibi_equals_the_published_biases(golden) -> None:
    past = np.tril(np.ones((16, 16), bool))
    np.testing.assert_allclose(
        square("alibi", 8, 16)[:, past], golden["alibi_hf/paper_bias.h8.causal"][:, past], atol=1e-6
    )
    symmetric = square("alibi", 8, 16, mask_kind="bidirectional")
    np.testing.assert_allclose(symmetric, golden["alibi_hf/symmetric_bias.h8"], atol=1e-6)
    np.testing.assert_array_equal(symmetric, symmetric.swapaxes(1, 2))
    offset = square("alibi:variant=offset", 8, 16, mask_kind="bidirectional")
    np.testing.assert_allclose(offset, golden["alibi_hf/ruoss_bias.h8"], atol=1e-6)


@pytest.mark.parametrize("heads", [4, 6, 8, 12, 16])
def test_alibi_equals_bloom_up_to_a_constant_of_each_row(heads: int, golden) -> None:
    bloom = np.broadcast_to(golden[f"alibi_hf/bloom.h{heads}"][:, None], (heads, 20, 20))
    difference = square("alibi", heads, 20) - bloom
    past = np.tril(np.ones((20, 20), bool))
    spread = np.where(past, difference - np.diagonal(difference, axis1=1, axis2=2)[:, :, None], 0)
    np.testing.assert_allclose(spread, 0, atol=1e-5)


def test_kerple_equals_the_published_biases(golden) -> None:
    learned = {"kerple_p": golden["other_bias/kerple.p"], "kerple_a": golden["other_bias/kerple.a"]}
    past = np.tril(np.ones((32, 32), bool))
    for name in ("log", "power"):
        ours, expected = square(f"kerple_{name}", 4, 32, learned), golden[f"other_bias/kerple.{name}_bias"]
        np.testing.assert_allclose(ours[:, past], expected[:, past], rtol=1e-6, atol=1e-6)


def test_kerple_power_has_a_finite_gradient_at_distance_0() -> None:
    made = build_position("kerple_power", PositionContext(16, 1e4, 64, 64, 2)).bias
    learned = {"kerple_p": jnp.asarray([0.5, 1.5]), "kerple_a": jnp.asarray([0.5, 0.001])}
    zero = jnp.zeros((1, 1, 1), jnp.int32)
    gradient = jax.grad(lambda values: made(values, zero, zero).sum())(learned)
    assert all(np.isfinite(g).all() for g in gradient.values())
    # Below the floor of 0.01 the floor counts.
    assert made(learned, zero + 3, zero)[0, 1, 0, 0] == pytest.approx(-0.01 * 3**1.5)


LIMITS = [
    ("kerple_log", "kerple_p", -0.05, 0.01),
    ("kerple_log", "kerple_a", -0.05, 0.01),
    ("kerple_power", "kerple_a", 0.005, 0.01),
    ("kerple_power", "kerple_p", 0.001, 0.01),
    ("kerple_power", "kerple_p", 2.2, 2.0),
]


def kerple(name: str):
    """The bias of 24 distances, [H, 1, S], as a function of what KERPLE learns."""
    made = build_position(name, PositionContext(16, 1e4, 64, 64, 2)).bias
    return lambda learned: made(learned, jnp.full((1, 1, 1), 23), jnp.arange(24)[None, None])[0]


@pytest.mark.parametrize(("name", "parameter", "beyond", "limit"), LIMITS)
def test_beyond_a_limit_kerple_has_the_value_and_the_gradient_at_the_limit(
    name: str, parameter: str, beyond: float, limit: float
) -> None:
    """The released code writes the limit into the parameter before each forward pass, outside of the gradient."""
    learned = {"kerple_p": jnp.asarray([0.5, 1.5]), "kerple_a": jnp.asarray([0.5, 0.3])}
    cotangent = np.random.default_rng(0).standard_normal((2, 1, 24)).astype(np.float32)
    results = []
    for value in (beyond, limit):
        bias, pull_back = jax.vjp(kerple(name), learned | {parameter: learned[parameter].at[1].set(value)})
        results.append((bias, pull_back(jnp.asarray(cotangent))[0]))
    assert results[0][1][parameter][1] != 0
    for ours, expected in zip(*(jax.tree.leaves(result) for result in results), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("name", "parameter", "beyond", "limit"), LIMITS)
def test_a_parameter_of_kerple_beyond_its_limit_can_come_back(
    name: str, parameter: str, beyond: float, limit: float
) -> None:
    target = {"kerple_p": jnp.asarray([0.5, 1.0]), "kerple_a": jnp.asarray([0.5, 0.5])}
    wanted, start = kerple(name)(target), target[parameter].at[1].set(beyond)

    def loss(value):
        return jnp.mean((kerple(name)(target | {parameter: value}) - wanted) ** 2)

    def step(_, value):
        gradient = jax.grad(loss)(value)
        return value - 0.01 * gradient / (jnp.linalg.norm(gradient) + 1e-3)

    end = jax.lax.fori_loop(0, 500, step, start)
    np.testing.assert_allclose(end, target[parameter], atol=0.02)


def test_fire_equals_the_published_bias(golden) -> None:
    for case in (0, 1):
        c, threshold = golden[f"other_bias/fire.{case}.c_L"]
        learned = {
            "fire_in": golden["other_bias/fire.W1"][:, 0],
            "fire_in_bias": golden["other_bias/fire.b1"],
            "fire_out": golden["other_bias/fire.W2"].T,
            "fire_out_bias": golden["other_bias/fire.b2"],
            "fire_c": c,
            "fire_threshold": 1.0,
        }
        with jax.enable_x64(True):
            ours = square(f"fire:threshold={threshold}", 4, 32, learned)
        np.testing.assert_allclose(ours, golden[f"other_bias/fire.{case}.bias"], atol=1e-6)


def temperature(
    variant: str, n: np.ndarray, length: float = 0.0, learned: dict | None = None, **context: int
) -> np.ndarray:
    made = TEMPERATURES.build(variant).resolve(
        PositionContext(16, 1e4, **{"trained_length": 64, "target_length": 64, **context})
    )
    counts = jnp.asarray(n, jnp.float32)[None]
    return np.asarray(made(counts, jnp.full_like(counts, length), learned or {}))[0]


def test_temperatures_equal_the_golden_ones(golden) -> None:
    n = np.arange(128) + 1
    meta = golden.cases["temperatures"]
    for case, length in enumerate(meta["logn_L"]):
        for form, name in (("post_hoc", "logn_clip"), ("trained", "logn_full")):
            ours = temperature(f"log_n:form={form}", n, trained_length=length, target_length=length)
            np.testing.assert_allclose(ours, golden[f"temperatures/{name}.{case}"], rtol=1e-6, atol=1e-7)
    for case, s in enumerate(meta["ssmax_s"]):
        ours = temperature("ssmax", n, learned={"ssmax_scale": jnp.asarray([s, 2 * s])})
        np.testing.assert_allclose(ours[:, 0], golden[f"temperatures/ssmax.{case}"], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(ours[:, 1], 2 * golden[f"temperatures/ssmax.{case}"], rtol=1e-6, atol=1e-7)
    for case, scale in enumerate(meta["scales"]):
        target = int(64 * scale)
        np.testing.assert_allclose(
            temperature("yarn", n, target_length=target), golden[f"temperatures/yarn_logit_factor.{case}"], rtol=1e-6
        )
        ours = temperature("dual_chunk", n, length=64 * scale)
        np.testing.assert_allclose(ours, golden[f"temperatures/dca_code_logit_factor.{case}"], rtol=1e-6)
    ours = temperature("llama4", np.arange(0, 65536, 1024) + 1)
    np.testing.assert_allclose(ours, golden["temperatures/llama4_temp"], rtol=1e-6)
    assert temperature("llama4:floor_scale=10", np.asarray([9, 10])).tolist() == pytest.approx(
        [1, 1 + 0.1 * math.log(2)]
    )
    for bad in ("llama4:floor_scale=0", "dual_chunk:length=-4", "yarn:factor=0.5", "log_n:length=1"):
        with pytest.raises(UserError, match="temperature"):
            temperature(bad, n)


def test_log_n_is_1_at_the_trained_length_and_post_hoc_never_below() -> None:
    for form in ("trained", "post_hoc"):
        assert temperature(f"log_n:form={form}", np.asarray([64]))[0] == 1
    assert temperature("log_n", np.asarray([1, 10, 63])).tolist() == [1, 1, 1]
    assert temperature("log_n:length=512", np.asarray([4096]))[0] == pytest.approx(4 / 3)


def test_the_yarn_temperature_is_the_square_of_yarns_scale() -> None:
    scale = build_position("yarn:factor=8", PositionContext(64, 1e4, 512, 512)).rotation.scale
    assert temperature("yarn:factor=8", np.asarray([5]))[0] == pytest.approx(scale**2)


def test_sinusoidal_waves_have_the_published_form_and_the_size_of_the_embeddings() -> None:
    made = build_position("sinusoidal", PositionContext(16, 1e4, 64, 64)).embedding
    positions = jnp.asarray([[0, 1, 7, 5000]])
    waves = np.asarray(made.embed({}, positions, 32, rms=0.02))[0]
    for p, row in zip([0, 1, 7, 5000], waves, strict=True):
        for i in range(16):
            angle = p / 10_000 ** (2 * i / 32)
            np.testing.assert_allclose(
                row[[i, i + 16]] / (0.02 * math.sqrt(2)), [math.sin(angle), math.cos(angle)], atol=1e-3
            )
    assert np.sqrt((waves**2).mean()) == pytest.approx(0.02)


def test_a_learned_position_past_its_table_is_nan_and_never_a_neighbour() -> None:
    made = build_position("learned", PositionContext(16, 1e4, 8, 8)).embedding
    table = {"positions": jnp.ones((8, 4))}
    row = np.asarray(made.embed(table, jnp.asarray([[7, 8]]), 4, rms=1.0))[0]
    assert np.isfinite(row[0]).all()
    assert np.isnan(row[1]).all()


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("t5_bias:num_buckets=6", "must be a multiple of 4"),
        ("t5_bias:max_distance=16", "must exceed 16"),
        ("alibi:variant=both", "is not one of symmetric, offset"),
        ("fire:hidden=0", "must be 1 or more"),
        ("learned:size=100", "must cover 512 tokens"),
        ("sinusoidal:scale=0", "must be above 0"),
    ],
)
def test_impossible_parameters_are_refused(variant: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        square(variant, 4, 8)
