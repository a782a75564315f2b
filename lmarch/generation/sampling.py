"""How the next token is drawn from its logits."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmarch.errors import UserError

Scalar = float | jax.Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Temperature first, then top-k, then top-p (Holtzman et al. 2020, arXiv 1904.09751); temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int | None = None  # only the k most likely tokens; none: all
    top_p: float | None = None  # only the fewest most likely tokens that together have probability p; none: all

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature:g} must be 0 (greedy) or more, and finite")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be 1 or more, or none")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p:g} must be above 0 and at most 1, or none")
        if self.temperature == 0 and (self.top_k, self.top_p) != (None, None):
            raise UserError("top_k and top_p need a temperature above 0: temperature=0 takes the most likely token")

    @property
    def traced(self) -> tuple[float | None, float | None]:
        """`temperature` and `top_p` as `draw` takes them: values of a compiled step, which is the same for all of them."""
        return self.temperature or None, self.top_p

    def draw(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """Return tokens, int32 [B]; see `draw`."""
        return draw(logits_BV, keys_B, *self.traced, self.top_k)


def draw(
    logits_BV: jax.Array, keys_B: jax.Array, temperature: Scalar | None, top_p: Scalar | None, top_k: int | None
) -> jax.Array:
    """Return tokens, int32 [B]; row b by its own key, so that its neighbours change nothing.

    Args:
      temperature: none: greedy, a program of its own and without keys.
      top_p, top_k: none: no such limit.
    """
    if temperature is None:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV.astype(jnp.float32)
    logits_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature  # the largest stays finite
    if (top_k, top_p) != (None, None):
        logits_BV = jnp.where(may_be_drawn(logits_BV, top_p, top_k), logits_BV, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def may_be_drawn(logits_BV: jax.Array, top_p: Scalar | None, top_k: int | None) -> jax.Array:
    """Return which tokens may be drawn, bool [B, V]; of equally likely ones those of the lower ids come first.

    Only logits are ranked, not ids: the lowest that is kept, and how many of its equals are, say which tokens it is.
    """
    ranked_BK = _ranked(logits_BV) if top_k is None else jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0]
    kept_BK = jnp.ones(ranked_BK.shape, bool)
    if top_p is not None:
        probabilities_BK = jax.nn.softmax(ranked_BK, axis=-1)
        before_BK = jnp.cumsum(probabilities_BK, axis=-1) - probabilities_BK
        # A sum of float32 may reach 1 before the last tokens.
        kept_BK = (before_BK < top_p) | (jnp.asarray(top_p) >= 1)
    lowest_B1 = jnp.where(kept_BK, ranked_BK, jnp.inf).min(axis=-1, keepdims=True)
    equals_B1 = (kept_BK & (ranked_BK == lowest_B1)).sum(axis=-1, keepdims=True)
    equal_BV = logits_BV == lowest_B1
    return (logits_BV > lowest_B1) | (equal_BV & (jnp.cumsum(equal_BV, axis=-1) <= equals_B1))


def _ranked(logits_BV: jax.Array) -> jax.Array:
    """Return each row's logits, float32, the largest first; as integers, which XLA's CPU sorts 4 times as fast as floats."""

    def reordered(bits_BV: jax.Array) -> jax.Array:
        """Turn the bits of floats into integers of the same order, or back: of negative floats larger bits are less."""
        return jnp.where(bits_BV < 0, bits_BV ^ 0x7FFFFFFF, bits_BV)

    bits_BV = reordered(jax.lax.bitcast_convert_type(-logits_BV, jnp.int32))
    return -jax.lax.bitcast_convert_type(reordered(jnp.sort(bits_BV, axis=-1)), jnp.float32)


class Draws(NamedTuple):
    """What all draws of a generation have in common, on the device."""

    keys_B: jax.Array
    allowed_V: jax.Array  # bool
    temperature: Scalar | None
    top_p: Scalar | None

    def draw(self, logits_BV: jax.Array, number: jax.Array, top_k: int | None) -> jax.Array:
        """Return the tokens of step `number`, int32 [B]."""
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(self.keys_B, number)
        allowed_BV = jnp.where(self.allowed_V[None], logits_BV, -jnp.inf)
        return draw(allowed_BV, keys_B, self.temperature, self.top_p, top_k)
