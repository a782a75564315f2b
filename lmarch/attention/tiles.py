"""Cutting a text into tiles of equal length, and planning which tiles of keys a tile of queries visits.

Positions, documents and prefixes are inputs. So which tiles hold a visible pair, and which branches are met there, is decided
while a program runs, from the smallest and the largest coordinates of each tile by interval arithmetic: once for a
call, before any loop, at a few bytes for each pair of tiles.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import PADDING, Coordinates
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import EVERYTHING, Branch, Pairs, Region

_FAR = 2**30  # beyond every coordinate, and twice of it is an int32
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


class TilePlan(NamedTuple):
    """For N tiles of queries and M of keys; Z is 1, or the number of rows if each has a plan of its own."""

    queries: Coordinates  # [B or 1, N, C] each
    keys: Coordinates  # [B or 1, M, C] each
    order_ZNM: jax.Array  # the key tiles that a query tile visits, filled from the left
    count_ZN: jax.Array  # how many these are
    branch_ZNM: jax.Array  # the branch that all visible pairs lie in; the number of branches: there may be several
    present_ZNMb: jax.Array  # which branches may have a pair there


def make_plan(
    spec: AttentionSpec, queries_at: Coordinates, keys_at: Coordinates, tile: int, *, by_row: bool
) -> TilePlan:
    """Plan the tiles of a text.

    Args:
      by_row: whether rows are computed one after the other, each with a plan of its own; else all visit the same tiles.
    """
    # Inside a document, distances of positions that are ranks are those of indices, whose bounds are as narrow where a tile
    # lies across documents.
    counted = queries_at.positions is None and keys_at.positions is None and spec.mask_kind != "cross"
    queries, keys = (coordinates_in_tiles(at, tile) for at in (queries_at, keys_at))
    low, high = _bounds(queries, keys, by_row=by_row, counted=False)
    some_prefix = None
    if keys.prefix is not None:
        in_prefix_MBC = (keys.ranks < keys.prefix) & (keys.indices > PADDING)
        some_prefix = _over_tokens(jnp.any, in_prefix_MBC, by_row=by_row)[:, None, :]
    may_ZNM = spec.visibility.may_meet(low, high, some_prefix) & (high.key_index > PADDING)
    if queries.documents is not None and keys.documents is not None:
        first, last = (x.T[:, :, None] for x in (queries.documents.min(2), queries.documents.max(2)))  # [B, N, 1]
        lowest, highest = (x.T[:, None, :] for x in (keys.documents.min(2), keys.documents.max(2)))
        overlap_BNM = (first <= highest) & (lowest <= last)
        may_ZNM &= overlap_BNM if by_row else overlap_BNM.any(0, keepdims=True)
    bounds = [(low, high)]
    if counted:
        bounds.append(_bounds(queries, keys, by_row=by_row, counted=True))
    present = [may_ZNM]
    if len(spec.branches) > 1:
        present = [_may_have(branch, bounds) & may_ZNM for branch in spec.branches]
    present_ZNMb = jnp.stack(jnp.broadcast_arrays(*present), axis=-1)
    single_ZNM = jnp.argmax(present_ZNMb, axis=-1)
    branch_ZNM = jnp.where(present_ZNMb.sum(-1) > 1, len(spec.branches), single_ZNM).astype(jnp.int32)
    return TilePlan(
        queries=jax.tree.map(lambda x: x.swapaxes(0, 1), queries),
        keys=jax.tree.map(lambda x: x.swapaxes(0, 1), keys),
        order_ZNM=jnp.argsort(~may_ZNM, stable=True).astype(jnp.int32),
        count_ZN=may_ZNM.sum(-1, dtype=jnp.int32),
        branch_ZNM=branch_ZNM,
        present_ZNMb=present_ZNMb,
    )


def _may_have(branch: Branch, bounds: list[tuple[Pairs, Pairs]]) -> Any:
    """False only where no pair of the tiles lies in the branch's region, [Z, N, M]."""
    exact, *counted = bounds
    may_have = branch.region.may_meet(*exact)
    for low, high in counted:
        # Blocks are counted from the start of a document, which indices know nothing of.
        region = dataclasses.replace(branch.region, block_distance=EVERYTHING, rank=EVERYTHING)
        may_have = may_have & region.may_meet(low, high) if region != Region() else may_have
    return may_have


def _bounds(queries: Coordinates, keys: Coordinates, *, by_row: bool, counted: bool) -> tuple[Pairs, Pairs]:
    """Return the smallest and the largest coordinates of the pairs of each two tiles, [Z, N, 1] and [Z, 1, M].

    Args:
      counted: positions are taken for indices.
    """

    def extremes(reduce: Callable, neutral: int) -> Pairs:
        def of_tiles(at: Coordinates, name: str) -> jax.Array | None:
            values = getattr(at, "indices" if counted and name == "where" else name)
            if values is None:
                return None
            values = abs(values) if name == "windows" else values
            return _over_tokens(reduce, jnp.where(at.indices > PADDING, values, neutral), by_row=by_row)

        def both(name: str) -> tuple[Any, Any]:
            query, key = of_tiles(queries, name), of_tiles(keys, name)
            return (None, None) if query is None or key is None else (query[:, :, None], key[:, None, :])

        return Pairs.of(positions=both("where"), indices=both("indices"), ranks=both("ranks"), windows=both("windows"))

    return extremes(jnp.min, _FAR), extremes(jnp.max, PADDING)


def _over_tokens(reduce: Callable, x_NBC: jax.Array, *, by_row: bool) -> jax.Array:
    """[N, B or 1, C] -> [B or 1, N] if by row, else [1, N]."""
    return reduce(x_NBC, axis=2).T if by_row else reduce(x_NBC, axis=(1, 2))[None]
