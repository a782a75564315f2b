"""How the next token is drawn from its logits."""

import dataclasses
import math

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
        """`temperature` and `top_p` as `draw` takes them: values of a compiled step, of which it is made but once."""
        return self.temperature or None, self.top_p

    def draw(self, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
        """Tokens [B], int32; see `draw`."""
        return draw(logits_BV, keys_B, *self.traced, self.top_k)


def draw(
    logits_BV: jax.Array, keys_B: jax.Array, temperature: Scalar | None, top_p: Scalar | None, top_k: int | None
) -> jax.Array:
    """Tokens [B], int32; row b by its own key, so that its neighbours change nothing.

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
    """Which tokens may be drawn, bool [B, V]; of equally likely ones those of the lower ids come first."""
    order_BV = jnp.argsort(-logits_BV, axis=-1, stable=True)
    kept_BV = jnp.ones(logits_BV.shape, bool)  # by rank
    if top_k is not None:
        kept_BV &= jnp.arange(logits_BV.shape[-1])[None] < top_k
    if top_p is not None:
        ranked_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
        probabilities_BV = jax.nn.softmax(jnp.where(kept_BV, ranked_BV, -jnp.inf), axis=-1)
        before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
        # A sum of float32 may reach 1 before the last tokens.
        kept_BV &= (before_BV < top_p) | (jnp.asarray(top_p) >= 1)
    ranks_BV = jnp.argsort(order_BV, axis=-1)
    return jnp.take_along_axis(kept_BV, ranks_BV, axis=-1)
