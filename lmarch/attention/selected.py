"""Attention to selected keys: tiles of queries against all keys, of which each query attends to what it chooses.

What a selection needs to know of keys (`Statistics`) it learns first, from the queries that met them; then it chooses. Both
take O(tile x S) memory. `dense` is one tile.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lmarch.attention.dense import logits_and_visible, softmax_over
from lmarch.attention.operands import Operands
from lmarch.attention.places import Places, pairs_of
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import in_tiles, places_in_tiles, whole
from lmarch.visibility.selection import Quest, Statistics, Tile


def selected(
    operands: Operands, spec: AttentionSpec, statistics: Statistics, tile: int
) -> tuple[jax.Array, jax.Array, Statistics]:
    """As `dense`, over the chosen pairs; and the statistics with these queries."""
    selection, (batch, length) = spec.selection, operands.queries[0].shape[:2]
    assert selection is not None
    tile = min(tile, length)
    tiles = jax.tree.map(lambda q: in_tiles(q, tile), operands.queries), places_in_tiles(operands.queries_at, tile)

    def look(queries: Any, at: Places) -> tuple[Tile, jax.Array]:
        some = operands._replace(queries=queries, queries_at=at)
        logits_BGRTS, visible_BTS = logits_and_visible(some, spec)
        pairs = pairs_of(at, operands.keys_at)
        candidates_BTS = visible_BTS & selection.candidates.contains(pairs)
        return Tile(logits_BGRTS, pairs, candidates_BTS, queries[0], operands.keys[0]), visible_BTS

    if selection.learns:
        if not statistics:
            statistics = selection.statistics(batch, *operands.values_BGSK.shape[1:])

        def learn(statistics: Statistics, of_tile: Any) -> tuple[Statistics, None]:
            return selection.updated(statistics, look(*of_tile)[0]), None

        statistics = lax.stop_gradient(lax.scan(learn, statistics, tiles)[0])

    @jax.checkpoint
    def attend(of_tile: Any) -> tuple[jax.Array, jax.Array]:
        seen, visible_BTS = look(*of_tile)
        chosen_BGRTS = selection.choose(statistics, seen) | ~seen.candidates_BTS[:, None, None]
        return softmax_over(selection.regrouped(seen), visible_BTS[:, None, None] & chosen_BGRTS, operands.values_BGSK)

    out_NBCGRK, log_normaliser_NBCGR = lax.map(attend, tiles)
    return whole(out_NBCGRK, length), whole(log_normaliser_NBCGR, length), statistics


def of_pages(operands: Operands, spec: AttentionSpec, statistics: Statistics) -> tuple[jax.Array, jax.Array]:
    """As `dense`, for one query a row that reads the pages it chooses and no others (Quest)."""
    selection, q_B1GRK = spec.selection, operands.queries[0]
    assert isinstance(selection, Quest)
    low_BGPK, high_BGPK = statistics["low"], statistics["high"]
    filled_BGP = jnp.isfinite(low_BGPK[..., 0])
    finite = (jnp.where(filled_BGP[..., None], x, 0.0) for x in (low_BGPK, high_BGPK))
    bounds_BGRP = selection.bounds(jnp.moveaxis(q_B1GRK, 1, 3).astype(jnp.float32), *finite)[:, :, :, 0]
    bounds_BGRP = jnp.where(filled_BGP[:, :, None], bounds_BGRP, -jnp.inf)
    pages_BGRN = lax.top_k(bounds_BGRP, min(selection.pages, bounds_BGRP.shape[-1]))[1]
    offsets = jnp.arange(selection.page)[None, None, None, None]
    indices = (pages_BGRN[..., None] * selection.page + offsets).reshape(*pages_BGRN.shape[:-1], -1)
    slots = operands.values_BGSK.shape[2]
    kept = jnp.minimum(indices, slots - 1)

    def gathered(x_BGSK: jax.Array) -> jax.Array:
        """[B, G, S, K] -> [B, G, R, N, K]"""
        return jnp.take_along_axis(x_BGSK[:, :, None], kept[..., None], axis=3)

    accumulate = jnp.promote_types(jnp.float32, operands.values_BGSK.dtype)
    logits = jnp.einsum("BTGRK,BGRNK->BGRTN", q_B1GRK, gathered(operands.keys[0]), preferred_element_type=accumulate)
    logits *= spec.logit_scale
    if spec.softcap is not None:
        logits = spec.softcap * jnp.tanh(logits / spec.softcap)
    index_B = operands.queries_at.indices[:, 0]
    visible = (indices <= index_B[:, None, None, None]) & (indices < slots)
    # Each query head has keys of its own now.
    batch, _, groups, repeats, width = q_B1GRK.shape
    alone = (batch, groups * repeats, 1, 1, -1)
    values = gathered(operands.values_BGSK).reshape(batch, groups * repeats, -1, width)
    out, log_normaliser = softmax_over(logits.reshape(alone), visible.reshape(alone), values)
    return out.reshape(q_B1GRK.shape), log_normaliser.reshape(q_B1GRK.shape[:-1])
