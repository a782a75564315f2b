"""What every implementation of attention receives: queries and keys already rotated, once per branch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.rotation import rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import PositionMap


class Operands(NamedTuple):
    """G key-value heads, each shared by R query heads; one entry of `queries` and `keys` per branch of the spec."""

    queries: tuple[jax.Array, ...]  # [B, T, G, R, K]
    keys: tuple[jax.Array, ...]  # [B, S, G, K]
    values_BSGK: jax.Array
    positions_BT: jax.Array  # int32 [B, T] or [1, T]
    segment_ids_BT: jax.Array | None  # pairs with different ids do not see each other
    logit_scale: float  # scale^2 / sqrt(K), applied to the float32 product


def make_operands(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    spec: AttentionSpec,
    positions_BT: jax.Array | None,
    segment_ids_BT: jax.Array | None,
) -> Operands:
    """Rotates queries and keys for each branch; branches with the same position map share one copy."""
    batch, length, heads, width = q_BTHK.shape
    indices_1T = jnp.arange(length, dtype=jnp.int32)[None]
    positions = indices_1T if positions_BT is None else positions_BT
    position = spec.position

    def turned(x: jax.Array, maps: list[PositionMap]) -> list[jax.Array]:
        if position.inverse_frequencies is None:
            return [x] * len(maps)
        copies = {m: rotate(x, m(positions), position.frequencies()) for m in dict.fromkeys(maps)}
        return [copies[m] for m in maps]

    queries = turned(q_BTHK, [branch.query for branch in position.branches])
    keys = turned(k_BSGK, [branch.key for branch in position.branches])
    grouped = (batch, length, k_BSGK.shape[2], heads // k_BSGK.shape[2], width)
    return Operands(
        tuple(q.reshape(grouped) for q in queries),
        tuple(keys),
        v_BSGK,
        positions,
        segment_ids_BT,
        position.scale**2 / width**0.5,
    )
