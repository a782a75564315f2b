"""The rotation R(p): channel pair (i, i + I) turns by the angle p h(i).

Angles are computed from positions in float32 whatever the compute dtype: at bfloat16 only 385 of the first 512
positions are distinct. Nothing is looked up, so no position is too large; far ones are split, so that a text without end
loses no precision to the float32 product.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.positions.position import Rotation

STRIDE = 4096  # positions; products of larger ones with a frequency are rounded by more than 2^-12


def rotate(
    x_BTHK: jax.Array,
    positions_BT: jax.Array,
    frequencies: Any,
    rotation: Rotation,
    fade_BT: jax.Array | None = None,
    *,
    heads_axis: int = 2,
) -> jax.Array:
    """scale R(positions) x on the first 2 I channels, in the dtype of x.

    Args:
      positions_BT: [B, T] or [1, T], integer or float.
      frequencies: h(i), [I], [B, T, I] or [B, 1, I].
      fade_BT: if the rotation has a decay, its exponent: the channels of pair i are multiplied by exp(log_decay_i fade).
      heads_axis: 1 for x [B, H, T, K].
    """
    # Under jax_enable_x64 a float64 input is rotated in float64, so that formulas can be checked to 1e-10.
    exact = jnp.promote_types(jnp.float32, x_BTHK.dtype)
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
    waves_BTI = size_BTI * jnp.cos(angles_BTI), size_BTI * jnp.sin(angles_BTI)
    # Made once, not inside the product: XLA would compute each wave again for every row and head.
    cos_BT1I, sin_BT1I = (jnp.expand_dims(wave, heads_axis) for wave in jax.lax.optimization_barrier(waves_BTI))
    half = frequencies_BTI.shape[-1]
    first, second = x_BTHK[..., :half].astype(exact), x_BTHK[..., half : 2 * half].astype(exact)
    turned = (first * cos_BT1I - second * sin_BT1I, second * cos_BT1I + first * sin_BT1I)
    return jnp.concatenate([part.astype(x_BTHK.dtype) for part in turned] + [x_BTHK[..., 2 * half :]], axis=-1)
