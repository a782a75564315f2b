"""Attention to chosen keys: tiles of queries against all keys, of which each query attends to what it chooses.

Of the visible pairs, a selection's *candidates* stay visible only where they are chosen. Whatever a choice rests on is known
when the query is read: blocks and pages that later tokens still fill say nothing about those. Equal scores go to the earlier
key.

What a selection needs to know of keys (`Statistics`) may be about the queries that met them. Then it is gathered from all
queries before any of them chooses: that leaks nothing, because a choice only reads what is known of keys whose last
contributing query it has passed. Both take O(tile x S) memory.
"""

from typing import Any, NamedTuple

import jax
from jax import lax

from lmarch.attention.coordinates import Coordinates, pairs_of
from lmarch.attention.dense import scores, softmax_over
from lmarch.attention.operands import Operands, Rotated, rotated
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import coordinates_in_tiles, in_tiles, whole
from lmarch.branches import Pairs
from lmarch.content import Features
from lmarch.visibility.selection import Statistics


class Tile(NamedTuple):
    """T queries against all S keys, of G key-value heads, each shared by R query heads: what a selection chooses by."""

    logits_BGRTS: jax.Array
    pairs: Pairs  # [B or 1, T, S]
    candidates_BTS: jax.Array
    queries_BTGRK: jax.Array  # rotated for the first branch, and so are
    keys_BGSK: jax.Array
    queries_at: Coordinates
    keys_at: Coordinates
    learned: dict[str, jax.Array]
    features: Features | None  # that the selection computed


def choosing(
    selection: Any, operands: Operands, spec: AttentionSpec, statistics: Statistics, tile: int
) -> tuple[jax.Array, jax.Array, Statistics]:
    """Return what `dense` does, over the chosen pairs, and the statistics with these queries."""
    batch, length = operands.q_BTHK.shape[:2]
    both, tile = rotated(operands, spec), min(tile, length)
    tiles = (
        tuple(in_tiles(q, tile) for q in both.queries),
        coordinates_in_tiles(operands.queries_at, tile),
        {name: in_tiles(one.queries, tile) for name, one in operands.features.items()},
    )

    def look(queries: Any, at: Coordinates, features: Any) -> tuple[Tile, jax.Array]:
        read = {name: one._replace(queries=features[name]) for name, one in operands.features.items()}
        some = operands._replace(queries_at=at, features=read)
        seen = scores(Rotated(queries, both.keys), some, spec)
        pairs = pairs_of(at, operands.keys_at)
        candidates_BTS = seen.visible_BTS & selection.candidates.contains(pairs)
        chosen_by = Tile(
            logits_BGRTS=seen.logits_BGRTS,
            pairs=pairs,
            candidates_BTS=candidates_BTS,
            queries_BTGRK=queries[0],
            keys_BGSK=both.keys[0],
            queries_at=at,
            keys_at=operands.keys_at,
            learned=operands.learned,
            features=read.get("selection"),
        )
        return chosen_by, seen.visible_BTS

    if selection.asks_queries:
        if not statistics:
            groups, keys, width = both.keys[0].shape[1:]
            statistics = selection.statistics(batch, groups, keys, width)

        def learn(statistics: Statistics, of_tile: Any) -> tuple[Statistics, None]:
            return selection.updated(statistics, look(*of_tile)[0]), None

        statistics = lax.stop_gradient(lax.scan(learn, statistics, tiles)[0])

    @jax.checkpoint
    def attend(of_tile: Any) -> tuple[jax.Array, jax.Array]:
        seen, visible_BTS = look(*of_tile)
        chosen_BGRTS = selection.choose(statistics, seen) | ~seen.candidates_BTS[:, None, None]
        visible_BGRTS = visible_BTS[:, None, None] & chosen_BGRTS
        return softmax_over(selection.regrouped(seen), visible_BGRTS, operands.v_BGSV)

    out_NBCHV, log_normaliser_NBCH = lax.map(attend, tiles)
    return whole(out_NBCHV, length), whole(log_normaliser_NBCH, length), statistics
