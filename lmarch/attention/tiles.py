"""Cutting a text into tiles of equal length, and putting what was computed of them together again."""

from typing import Any

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import PADDING, Coordinates

TILE = 128  # tokens


def in_tiles(x: jax.Array, tile: int, axis: int = 1, **padding: Any) -> jax.Array:
    """[B, T, ...] -> [N, B, C, ...], padded; along another axis than 1 alike."""
    widths = [(0, -size % tile if place == axis else 0) for place, size in enumerate(x.shape)]
    x = jnp.pad(x, widths, **padding)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, tile, *x.shape[axis + 1 :]), axis, 0)


def coordinates_in_tiles(at: Coordinates, tile: int) -> Coordinates:
    """[B or 1, T] -> [N, B or 1, C] each; padding is padding, and spans, which are not of tokens, are left out."""
    if at.prefix is not None:
        at = at._replace(prefix=jnp.broadcast_to(at.prefix, (at.prefix.shape[0], at.indices.shape[1])))
    indices = in_tiles(at.indices, tile, constant_values=PADDING)
    tiled: Coordinates = jax.tree.map(lambda x: in_tiles(x, tile, mode="edge"), at._replace(spans=None))
    return tiled._replace(indices=indices)


def whole(x_NBC: jax.Array, length: int) -> jax.Array:
    """[N, B, C, ...] -> [B, T, ...], without the padding."""
    x_BNC = jnp.moveaxis(x_NBC, 0, 1)
    return x_BNC.reshape(x_BNC.shape[0], -1, *x_BNC.shape[3:])[:, :length]
