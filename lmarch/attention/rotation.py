"""The rotation R(p): channel pair (i, i + I) turns by the angle p h(i).

Angles are computed from positions in float32 whatever the compute dtype: at bfloat16 only 385 of the first 512
positions are distinct. Nothing is looked up, so no position is too large; far ones are split, so that a text without end
loses no precision to the float32 product.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.positions.position import Rotation

STRIDE = 4096  # positions; products of larger ones with a frequency are rounded by more than 2^-12


class Wave(NamedTuple):
    """What the tokens of a text are rotated by, [B or 1, T, I] each: cosines and sines of their angles, times a size."""

    cos_BTI: jax.Array
    sin_BTI: jax.Array


def make_wave(
    positions_BT: jax.Array, frequencies: Any, rotation: Rotation, dtype: Any, fade_BT: jax.Array | None = None
) -> Wave:
    """Compute the wave of tokens at `positions_BT`.

    Args:
      positions_BT: [B, T] or [1, T], integer or float.
      frequencies: h(i), [I], [B, T, I] or [B, 1, I].
      dtype: of what is rotated. Angles are float32, or float64 if that is, so that formulas can be checked to 1e-10.
      fade_BT: if the rotation has a decay, its exponent: the channels of pair i are multiplied by exp(log_decay_i fade).
    """
    exact = jnp.promote_types(jnp.float32, dtype)
    if not isinstance(frequencies, jax.Array):
        frequencies = np.asarray(frequencies, np.float64)
    frequencies = frequencies[None, None] if frequencies.ndim == 1 else frequencies
    strides_BT1 = (jnp.sign(positions_BT) * (abs(positions_BT) // STRIDE))[..., None]  # towards 0: near stays as it is
    rest_BT1 = positions_BT[..., None] - STRIDE * strides_BT1
    # What a stride turns beyond whole turns; in float64 where frequencies do not depend on the text.
    frequencies_BTI, turns_BTI = (jnp.asarray(x, exact) for x in (frequencies, frequencies * STRIDE % (2 * math.pi)))
    angles_BTI = rest_BT1.astype(exact) * frequencies_BTI + strides_BT1.astype(exact) * turns_BTI
    size_BTI: Any = rotation.scale
    if fade_BT is not None and rotation.log_decay is not None:
        log_decay_11I = jnp.asarray(rotation.log_decay, exact)[None, None]
        size_BTI = size_BTI * jnp.exp(fade_BT[..., None].astype(exact) * log_decay_11I)
    # A barrier: XLA would compute each wave again, inside the product, for every row and head.
    return Wave(*jax.lax.optimization_barrier((size_BTI * jnp.cos(angles_BTI), size_BTI * jnp.sin(angles_BTI))))


def rotate(x_BTHK: jax.Array, wave: Wave, *, heads_axis: int = 2) -> jax.Array:
    """Rotate the first 2 I channels, in the dtype of x; further channels are left alone.

    Args:
      heads_axis: 1 for x [B, H, T, K].
    """
    cos_BT1I, sin_BT1I = (jnp.expand_dims(part, heads_axis) for part in wave)
    half, exact = cos_BT1I.shape[-1], cos_BT1I.dtype
    first, second = x_BTHK[..., :half].astype(exact), x_BTHK[..., half : 2 * half].astype(exact)
    rotated = (first * cos_BT1I - second * sin_BT1I, second * cos_BT1I + first * sin_BT1I)
    return jnp.concatenate([part.astype(x_BTHK.dtype) for part in rotated] + [x_BTHK[..., 2 * half :]], axis=-1)
