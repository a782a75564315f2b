"""Windows are caches that forget: one banded pass equals reading token by token and evicting, as the papers' scripts do."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import make_operands, rope, untraced_attend

from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiled import tiled

LENGTH, HEADS, KV_HEADS, WIDTH, DIM = 50, 4, 2, 16, 24
BASE = 10_000.0


class Entry(NamedTuple):
    """What a cache holds of a token; keys are not turned yet: in StreamingLLM their positions change."""

    token: int
    k_GK: np.ndarray
    v_GK: np.ndarray


class Streaming(NamedTuple):
    """StreamingLLM's evaluation script: attend, then evict what comes after the sinks; positions are cache slots."""

    sinks: int
    size: int

    def before(self, cache: list[Entry]) -> list[Entry]:
        return cache

    def after(self, cache: list[Entry]) -> list[Entry]:
        if len(cache) > self.sinks + self.size:
            del cache[self.sinks]
        return cache

    def distance(self, cache: list[Entry], slot: int) -> int:
        return (len(cache) - 1) - slot


class Sliding(NamedTuple):
    """A rolling buffer of so many tokens, the query among them, at their true positions."""

    size: int

    def before(self, cache: list[Entry]) -> list[Entry]:
        return cache[-self.size :]

    def after(self, cache: list[Entry]) -> list[Entry]:
        return cache

    def distance(self, cache: list[Entry], slot: int) -> int:
        return cache[-1].token - cache[slot].token


class LmInfinite(NamedTuple):
    """Lambda-shaped: the first tokens and the last; nothing is farther away than the ceiling, nor are the first."""

    sinks: int
    size: int
    ceiling: int

    def before(self, cache: list[Entry]) -> list[Entry]:
        return [entry for slot, entry in enumerate(cache) if slot < self.sinks or slot >= len(cache) - self.size]

    def after(self, cache: list[Entry]) -> list[Entry]:
        return cache

    def distance(self, cache: list[Entry], slot: int) -> int:
        return min(cache[-1].token - cache[slot].token, self.ceiling)


Policy = Streaming | Sliding | LmInfinite


class Layer:
    """One attention layer that reads token by token and remembers what its policy lets it."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.cache = policy, []

    def __call__(self, token: int, q_HK: np.ndarray, k_GK: np.ndarray, v_GK: np.ndarray) -> np.ndarray:
        """[H, K]."""
        cache = self.policy.before([*self.cache, Entry(token, k_GK, v_GK)])
        out_HK = np.zeros((HEADS, WIDTH))
        for h in range(HEADS):
            g = h // (HEADS // KV_HEADS)
            logits = [
                pair_logit(q_HK[h], entry.k_GK[g], self.policy.distance(cache, slot))
                for slot, entry in enumerate(cache)
            ]
            weights = np.exp(np.array(logits) - max(logits))
            for weight, entry in zip(weights / weights.sum(), cache, strict=True):
                out_HK[h] += weight * entry.v_GK[g]
        self.cache = self.policy.after(cache)
        assert len(self.cache) <= 10  # what lies farther back is gone
        return out_HK


def pair_logit(q_K: np.ndarray, k_K: np.ndarray, distance: float) -> float:
    """<R(distance) q, k> / sqrt(K), pair by pair: the channels i and i + K/2 turn together."""
    half, total = WIDTH // 2, 0.0
    for i in range(half):
        angle = distance * BASE ** (-2 * i / WIDTH)
        a, b = q_K[i], q_K[i + half]
        turned = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
        total += turned[0] * k_K[i] + turned[1] * k_K[i + half]
    return total / np.sqrt(WIDTH)


class Projections(NamedTuple):
    """Of one attention layer, drawn at random."""

    query_DHK: np.ndarray
    key_DGK: np.ndarray
    value_DGK: np.ndarray
    out_HKD: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Projections":
        shapes = [(DIM, heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        inwards = [rng.standard_normal(shape) / DIM**0.5 for shape in shapes]
        return cls(*inwards, rng.standard_normal((HEADS, WIDTH, DIM)) / (HEADS * WIDTH) ** 0.5)

    def inputs(self, x_TD: np.ndarray) -> list[np.ndarray]:
        """Queries, keys and values [T, heads, K]."""
        return [np.einsum("TD,DHK->THK", x_TD, matrix) for matrix in self[:3]]


Attend = Callable[..., jax.Array]
in_one_product: Attend = functools.partial(untraced_attend, implementation="dense")  # compiled once for all windows


@functools.partial(jax.jit, static_argnums=3)
def in_tiles(q_BTHK: jax.Array, k_BTGK: jax.Array, v_BTGK: jax.Array, spec: AttentionSpec) -> jax.Array:
    """In tiles of 16, so that whole tiles are evicted too."""
    out_BTGRK, _ = tiled(make_operands(q_BTHK, k_BTGK, v_BTGK, spec), spec, tile=16)
    return out_BTGRK.reshape(q_BTHK.shape)


def at_once(attend: Attend, spec: AttentionSpec, tensors: list[np.ndarray]) -> np.ndarray:
    """[T, H, K], of one pass over the whole text."""
    return np.asarray(attend(*(jnp.asarray(x[None], jnp.float32) for x in tensors), spec)[0], np.float64)


CASES = [
    ("streaming:sinks=3,size=7", Streaming(3, 7)),
    ("streaming:sinks=1,size=3", Streaming(1, 3)),
    ("streaming:sinks=0,size=7", Streaming(0, 7)),
    ("sliding:size=6", Sliding(6)),
    ("lm_infinite:sinks=3,size=7", LmInfinite(3, 7, 7)),
    ("lm_infinite:sinks=2,size=8,ceiling=5", LmInfinite(2, 8, 5)),
]
of_every_window = pytest.mark.parametrize(("window", "policy"), CASES, ids=[window for window, _ in CASES])
of_every_implementation = pytest.mark.parametrize("attend", [in_one_product, in_tiles], ids=["dense", "tiled"])


@functools.cache
def evicted(policy: Policy, num_layers: int) -> tuple[np.ndarray, ...]:
    """What `num_layers` layers say of a text read token by token: [T, H, K] of the last layer, and the states after it.

    Nothing is kept but what the layers' caches keep: a token passes all layers before the next one is read.
    """
    matrices, x_TD = text()
    layers = [Layer(policy) for _ in range(num_layers)]
    said, states = [], []
    for token, x_D in enumerate(x_TD):
        for layer, projections in zip(layers, matrices, strict=False):
            q_THK, k_TGK, v_TGK = projections.inputs(x_D[None])
            out_HK = layer(token, q_THK[0], k_TGK[0], v_TGK[0])
            x_D = x_D + np.einsum("HK,HKD->D", out_HK, projections.out_HKD)
        said.append(out_HK)
        states.append(x_D)
    return np.stack(said), np.stack(states)


@functools.cache
def text() -> tuple[list[Projections], np.ndarray]:
    """Two layers' projections and the states of a text [T, D]."""
    rng = np.random.default_rng(0)
    return [Projections.draw(rng) for _ in range(2)], rng.standard_normal((LENGTH, DIM))


@of_every_implementation
@of_every_window
def test_one_pass_equals_a_cache_that_evicts(window: str, policy: Policy, attend: Attend) -> None:
    (projections, _), x_TD = text()
    found = at_once(attend, rope(WIDTH, HEADS, window=window), projections.inputs(x_TD))
    np.testing.assert_allclose(found, evicted(policy, 1)[0], atol=1e-5)


@of_every_implementation
@of_every_window
def test_one_pass_through_two_layers_equals_caches_that_evict(window: str, policy: Policy, attend: Attend) -> None:
    """What the second layer keeps has seen what the first has forgotten."""
    matrices, x_TD = text()
    spec = rope(WIDTH, HEADS, window=window)
    for projections in matrices:
        out_THK = at_once(attend, spec, projections.inputs(x_TD))
        x_TD = x_TD + np.einsum("THK,HKD->TD", out_THK, projections.out_HKD)
    said, states = evicted(policy, 2)
    np.testing.assert_allclose(out_THK, said, atol=1e-5)
    np.testing.assert_allclose(x_TD, states, atol=1e-5)


def test_windows_that_differ_by_one_token_are_told_apart() -> None:
    """So that the equalities above mean something: size 7 is not size 6 or 8, a sink is not a slot farther."""
    (projections, _), x_TD = text()
    for near in ("sinks=3,size=6", "sinks=3,size=8", "sinks=2,size=7", "sinks=4,size=7"):
        spec = rope(WIDTH, HEADS, window=f"streaming:{near}")
        found = at_once(in_one_product, spec, projections.inputs(x_TD))
        assert np.abs(found - evicted(Streaming(3, 7), 1)[0])[20:].max((1, 2)).min() > 1e-3, near
