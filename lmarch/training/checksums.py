"""A number for every array of a state, which tells a checkpoint that has changed on the disk from the one that was saved."""

from typing import Any

import jax
import jax.numpy as jnp


def checksums(tree: Any) -> dict[str, int]:
    """The checksum of every leaf, by its dotted path and type; the same however the arrays are split over devices.

    Every 32 bits are multiplied by an odd number that depends on their place, and the products are added modulo 2^32. Sums of
    integers do not depend on their order, and an odd factor loses no bit: one flipped bit always changes the sum, and several
    do in all but one of 2^32 cases.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = {
        f"{jax.tree_util.keystr(path, simple=True, separator='.')}:{leaf.dtype}": _checksum(leaf)
        for path, leaf in leaves
    }
    return {name: int(value) for name, value in jax.device_get(sums).items()}


@jax.jit  # a program for each shape, however many arrays have it
def _checksum(x: jax.Array) -> jax.Array:
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).reshape(-1)
    place = jax.lax.iota(jnp.uint32, bits.size)
    return (bits * (2 * place * jnp.uint32(2654435769) + 1)).sum(dtype=jnp.uint32)
