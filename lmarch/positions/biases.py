"""Additive biases: a function of positions added to the logits after everything that scales them. Nothing is rotated.

Each is evaluated where it is needed, tile by tile, from integer positions in float32; no [T, S] array is kept.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.content import Parameter, ReadsNothing
from lmarch.errors import require
from lmarch.positions.context import PositionContext
from lmarch.positions.position import POSITIONS, Bias, Card, PlainAt, Position

Learned = Mapping[str, Any]
FLOOR = 0.01  # of KERPLE's parameters


@dataclasses.dataclass(frozen=True)
class Biased(ReadsNothing):
    """The base class: a bias that learns nothing, in a layer that rotates nothing."""

    card: ClassVar[Card]
    plain: ClassVar[PlainAt] = None
    shift_invariant: ClassVar[bool] = True

    def resolve(self, context: PositionContext) -> Any:
        return self

    def bias_parameters(self, num_heads: int) -> dict[str, Parameter]:
        return {}

    def bias(self, learned: Learned, t: Any, s: Any, num_heads: int, bidirectional: bool) -> Any:
        raise NotImplementedError

    def position(self, context: PositionContext) -> Position:
        shared = getattr(self, "shared", False)
        return Position(bias=Bias(self, context.num_heads, context.mask_kind != "causal"), shared=shared)


def _uniform(low: float, high: float, num_heads: int) -> Parameter:
    """Return a parameter of one number a head, drawn between `low` and `high`."""
    shape = (num_heads,)
    return Parameter(shape, ("heads",), lambda key: jax.random.uniform(key, shape, minval=low, maxval=high))


def _per_head(values: Any, rank: int) -> Any:
    """Reshape values [H] to [1, ..., H, 1, 1], to go with biases of `rank` dimensions."""
    return jnp.reshape(jnp.asarray(values), (1,) * (rank - 3) + (-1, 1, 1))


def _distance(t: Any, s: Any, learned: Any) -> Any:
    """Return |t - s| as a float array [..., 1, T, S], in float32 or the parameters' wider type."""
    dtype = jnp.promote_types(jnp.float32, jnp.asarray(learned).dtype)
    return jnp.abs(t - s).astype(dtype)[..., None, :, :]


def t5_bucket(relative: Any, bidirectional: bool, num_buckets: int, max_distance: int) -> Any:
    """Return the bucket ids of distances s - t (key minus query), int32.

    Half of the buckets (of a direction) hold one distance each, the others grow with its logarithm up to max_distance;
    the last holds everything beyond. Bidirectional: keys after their query use the upper half of the ids.
    """
    buckets = num_buckets // 2 if bidirectional else num_buckets
    start = jnp.where(relative > 0, buckets, 0) if bidirectional else 0
    distance = jnp.abs(relative) if bidirectional else jnp.maximum(-relative, 0)
    exact = buckets // 2
    scaled = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    grown = exact + (scaled * (buckets - exact)).astype(jnp.int32)
    return start + jnp.where(distance < exact, distance, jnp.minimum(grown, buckets - 1))


@POSITIONS.register("t5_bias")
@dataclasses.dataclass(frozen=True)
class T5Bias(Biased):
    """A learned number per bucket of distances and head (Raffel et al. 2020, arXiv 1910.10683, section 2.1).

    Causal layers use all buckets for the past, others half of them per direction. T5 shares it between its layers and
    does not divide logits by sqrt(K); whether logits are divided is not this method's business.
    """

    num_buckets: int = 32
    max_distance: int = 128
    shared: bool = True  # by all layers
    card: ClassVar = Card(
        "bias",
        "table[bucket(s−t), head], buckets exact, then logarithmic to max_distance",
        "near ones one by one; all beyond max_distance alike",
        "nothing is rotated",
        "train with it",
        "a gather per logit",
        "Raffel et al. 2020, arXiv 1910.10683",
    )

    def resolve(self, context: PositionContext) -> "T5Bias":
        ok = self.num_buckets >= 4 and self.num_buckets % 4 == 0
        rule = "must be a multiple of 4, so that both directions have exact and log buckets"
        require(ok, "t5_bias num_buckets", self.num_buckets, rule)
        exact = self.num_buckets // 2
        require(self.max_distance > exact, "t5_bias max_distance", self.max_distance, f"must exceed {exact}")
        return self

    def bias_parameters(self, num_heads: int) -> dict[str, Parameter]:
        shape = (self.num_buckets, num_heads)
        return {"t5_bias": Parameter(shape, ("buckets", "heads"), lambda key: 0.02 * jax.random.normal(key, shape))}

    def bias(self, learned: Learned, t: Any, s: Any, num_heads: int, bidirectional: bool) -> Any:
        buckets = t5_bucket(s - t, bidirectional, self.num_buckets, self.max_distance)
        return jnp.moveaxis(learned["t5_bias"][buckets], -1, -3)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Return 2^(-8h/H), h = 1..H, for a power of two, else those of the power below and every second of the next."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    if power == num_heads:
        return slopes
    return np.concatenate([slopes, alibi_slopes(2 * power)[0::2][: num_heads - power]])


@POSITIONS.register("alibi")
@dataclasses.dataclass(frozen=True)
class Alibi(Biased):
    """-m_h (t - s) with fixed slopes m_h (Press et al. 2022, arXiv 2108.12409).

    Where keys after their query are seen: `symmetric` takes -m_h |t - s|, which has no direction; `offset` adds m_h / 2
    to keys before it (Ruoss et al. 2023).
    """

    variant: Literal["symmetric", "offset"] = "symmetric"
    card: ClassVar = Card(
        "bias",
        "−m_h·|t−s|, m_h = 2^(−8h/H)",
        "far ones fade: a soft window",
        "nothing is rotated",
        "train with it",
        "one product per logit",
        "Press et al. 2022, arXiv 2108.12409",
    )

    def bias(self, learned: Learned, t: Any, s: Any, num_heads: int, bidirectional: bool) -> Any:
        distance = _distance(t, s, 0.0)
        if bidirectional and self.variant == "offset":
            distance = distance - 0.5 * (t > s)[..., None, :, :]
        return -_per_head(alibi_slopes(num_heads).astype(distance.dtype), distance.ndim) * distance


@dataclasses.dataclass(frozen=True)
class Kerple(Biased):
    """The base class of both: p and a per head, 0.01 or more (Chi et al. 2022, arXiv 2205.09921).

    The released code writes a parameter beyond a limit back to it before every forward pass. Here the parameter stays
    where it is, the limit is read in its place, and the gradient is the same, that at the limit; so it can come back.
    Distances are float32; the released code rounds them to bfloat16, which is wrong beyond 256.
    """

    shared: bool = True  # by all layers

    def bias_parameters(self, num_heads: int) -> dict[str, Parameter]:
        return {"kerple_p": _uniform(0.0, 2.0, num_heads), "kerple_a": _uniform(0.0, 1.0, num_heads)}


def projected(parameter: jax.Array, least: float, most: float | None = None) -> jax.Array:
    """Return the parameter, or the limit that it is beyond; the gradient passes as if there were no limits.

    A clip has no gradient beyond its limits: what training pushes there could never leave again.
    """
    inside = jnp.clip(jax.lax.stop_gradient(parameter), least, most)
    return inside + (parameter - jax.lax.stop_gradient(parameter))  # adds 0: the value is exact


@POSITIONS.register("kerple_log")
@dataclasses.dataclass(frozen=True)
class KerpleLog(Kerple):
    """-p ln(1 + a |t - s|), p, a >= 0.01."""

    card: ClassVar = Card(
        "bias",
        "−p ln(1 + a·|t−s|), learned per head",
        "far ones fade slowly",
        "nothing is rotated",
        "train with it",
        "a logarithm per logit",
        "Chi et al. 2022, arXiv 2205.09921",
    )

    def bias(self, learned: Learned, t: Any, s: Any, num_heads: int, bidirectional: bool) -> Any:
        distance = _distance(t, s, learned["kerple_p"])
        p, a = (_per_head(projected(learned[name], FLOOR), distance.ndim) for name in ("kerple_p", "kerple_a"))
        return -p * jnp.log1p(a * distance)


@POSITIONS.register("kerple_power")
@dataclasses.dataclass(frozen=True)
class KerplePower(Kerple):
    """-a |t - s|^p, a >= 0.01, 0.01 <= p <= 2."""

    card: ClassVar = Card(
        "bias",
        "−a·|t−s|^p, learned per head",
        "far ones fade",
        "nothing is rotated",
        "train with it",
        "a power per logit",
        "Chi et al. 2022, arXiv 2205.09921",
    )

    def bias(self, learned: Learned, t: Any, s: Any, num_heads: int, bidirectional: bool) -> Any:
        distance = _distance(t, s, learned["kerple_p"])
        p = _per_head(projected(learned["kerple_p"], FLOOR, 2.0), distance.ndim)
        a = _per_head(projected(learned["kerple_a"], FLOOR), distance.ndim)
        # d^p has the gradient d^p ln d, which is 0 ln 0 at d = 0: take the power of 1 there.
        powers = jnp.exp(p * jnp.log(jnp.maximum(distance, 1.0)))
        return -a * jnp.where(distance > 0, powers, 0.0)


@POSITIONS.register("fire")
@dataclasses.dataclass(frozen=True)
class Fire(Biased):
    """MLP(psi(|t - s|) / psi(max(t, threshold))), psi(x) = ln(c x + 1) (Li et al. 2024, arXiv 2310.04418).

    The MLP is 1 -> hidden -> heads with ReLU; c and the threshold (times a multiplier) are learned too. The normaliser
    is the query's position, so the bias depends on where a text begins, and queries near the start of a bidirectional
    layer meet arguments above 1.
    """

    hidden: int = 32
    threshold: float = 512.0
    shared: bool = False  # by all layers (the paper's FIRE-S)
    shift_invariant: ClassVar[bool] = False
    card: ClassVar = Card(
        "bias",
        "MLP(ln(c|t−s|+1) / ln(c max(t, threshold)+1))",
        "learned, as a share of the query's position",
        "nothing is rotated",
        "train with it",
        "an MLP of 32 per logit: as much as K = 64",
        "Li et al. 2024, arXiv 2310.04418",
    )

    def resolve(self, context: PositionContext) -> "Fire":
        require(self.hidden >= 1, "fire hidden", self.hidden, "must be 1 or more")
        require(0 < self.threshold < math.inf, "fire threshold", self.threshold, "must be above 0")
        return self

    def bias_parameters(self, num_heads: int) -> dict[str, Parameter]:
        H, F = num_heads, self.hidden

        def matrix(shape: tuple[int, ...], fan_in: int) -> Any:
            return lambda key: jax.random.normal(key, shape) / fan_in**0.5

        return {
            "fire_in": Parameter((F,), ("mlp_bias",), matrix((F,), 1)),
            "fire_in_bias": Parameter((F,), ("mlp_bias",), lambda key: jnp.zeros(F)),
            "fire_out": Parameter((F, H), ("mlp_bias", "heads"), matrix((F, H), F)),
            "fire_out_bias": Parameter((H,), ("heads",), lambda key: jnp.zeros(H)),
            "fire_c": Parameter((), (), lambda key: jnp.asarray(0.1)),
            "fire_threshold": Parameter((), (), lambda key: jnp.asarray(1.0)),  # a multiple of `threshold`
        }

    def bias(self, learned: Learned, t: Any, s: Any, num_heads: int, bidirectional: bool) -> Any:
        c, threshold = learned["fire_c"], jnp.abs(learned["fire_threshold"] * self.threshold)
        distance = _distance(t, s, c)[..., 0, :, :]
        query = jnp.maximum(jnp.broadcast_to(t, distance.shape).astype(distance.dtype), threshold)
        normaliser = jnp.log(jnp.abs(c * query) + 1) + 1e-6
        share = jnp.log(jnp.abs(c * distance) + 1) / normaliser
        front = (1,) * share.ndim
        hidden = jax.nn.relu(
            share[..., None] * learned["fire_in"].reshape(*front, -1) + learned["fire_in_bias"].reshape(*front, -1)
        )
        return jnp.moveaxis(hidden @ learned["fire_out"] + learned["fire_out_bias"].reshape(*front, -1), -1, -3)
