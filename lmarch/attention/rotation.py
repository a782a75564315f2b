"""The rotation R(p): channel pair (i, i + K/2) turns by the angle p h(i).

Angles are computed from positions in float32 whatever the compute dtype: at bfloat16 only 385 of the first 512
positions are distinct. Nothing is looked up, so no position is ever too large.
"""

import jax
import jax.numpy as jnp
import numpy as np


def rotate(x_BTHK: jax.Array, positions_BT: jax.Array, inverse_frequencies: np.ndarray) -> jax.Array:
    """R(positions) x, in the dtype of x. `positions` [B, T] or [1, T], integer or float."""
    # Under jax_enable_x64 a float64 input is rotated in float64, so that formulas can be checked to 1e-10.
    exact = jnp.promote_types(jnp.float32, x_BTHK.dtype)
    angles_BTI = positions_BT[..., None].astype(exact) * jnp.asarray(inverse_frequencies, exact)[None, None]
    cos_BT1I, sin_BT1I = jnp.cos(angles_BTI)[:, :, None], jnp.sin(angles_BTI)[:, :, None]
    first, second = jnp.split(x_BTHK.astype(exact), 2, axis=-1)
    turned = (first * cos_BT1I - second * sin_BT1I, second * cos_BT1I + first * sin_BT1I)
    return jnp.concatenate(turned, axis=-1).astype(x_BTHK.dtype)
