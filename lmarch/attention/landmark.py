"""Attention to retrieved blocks: the text is read in chunks, and each head of each query takes a few blocks from before.

Where a block is, is decided with its choice (`Landmark` in `visibility/selection`). Turning keys for every query and head
would take a copy of the keys each. Here keys are turned once, by their place in their block, and queries once for each of
the few slots that a block may be in: R(t) against R(slot width + u) is R(t - slot width) against R(u).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lmarch.attention.dense import logits_and_visible, softmax_over
from lmarch.attention.operands import Operands
from lmarch.attention.places import NOWHERE, pairs_of
from lmarch.attention.rotation import rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import in_tiles, places_in_tiles, whole
from lmarch.visibility.selection import Landmark, Tile


def retrieving(operands: Operands, spec: AttentionSpec, tile: int) -> tuple[jax.Array, jax.Array]:
    """As `dense`, over each query's chunk and the blocks it retrieves, by tiles of queries in O(tile x S) memory."""
    selection, length = spec.selection, operands.queries[0].shape[1]
    assert isinstance(selection, Landmark)
    assert selection.top is not None
    width, tile = selection.width, min(tile, length)
    chunk, memory = (dataclasses.replace(spec, branches=(branch,)) for branch in spec.branches)
    of_chunk, of_memory = operands.keys
    tiles = jax.tree.map(lambda q: in_tiles(q, tile), operands.queries), places_in_tiles(operands.queries_at, tile)
    landmarks = slice(selection.block, None, width)
    landmarks_at = jax.tree.map(lambda x: x[:, landmarks], operands.keys_at._replace(spans=None))

    def in_slots(some: Operands, slots_BGRTS: jax.Array) -> jax.Array:
        """Logits [B, G, R, T, S] of keys in slots; queries are turned for the first."""

        def slot(logits_BGRTS: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            queries = (_turned(some.queries[0], -number * width, spec),)
            here_BGRTS, _ = logits_and_visible(some._replace(queries=queries), memory)
            return jnp.where(slots_BGRTS == number, here_BGRTS, logits_BGRTS), None

        assert selection.top is not None
        first_BGRTS, _ = logits_and_visible(some, memory)
        return lax.scan(slot, first_BGRTS, jnp.arange(1, selection.top + 1))[0]

    @jax.checkpoint
    def attend(of_tile: Any) -> tuple[jax.Array, jax.Array]:
        (near, far), at = of_tile
        near_alone = operands._replace(queries=(near,), keys=(of_chunk,), queries_at=at)
        far_alone = near_alone._replace(queries=(far,), keys=(of_memory,))
        logits_BGRTS, visible_BTS = logits_and_visible(near_alone, chunk)
        pairs, keys = pairs_of(at, operands.keys_at), logits_BGRTS.shape[-1]

        # The choice.
        marks = far_alone._replace(keys=(of_memory[:, :, landmarks],), keys_at=landmarks_at)
        mark_pairs = pairs_of(at, landmarks_at)
        in_memory_BTN = memory.branches[0].region.contains(mark_pairs) & (mark_pairs.key_index > NOWHERE)
        blocks_B11T1 = selection.memory(pairs.query_index)[:, None, None]
        slots_B11TN = selection.slots_to_choose_by(blocks_B11T1, in_memory_BTN.shape[-1])
        scores_BGRTN = jnp.where(in_memory_BTN[:, None, None], in_slots(marks, slots_B11TN), -jnp.inf)
        chosen_BGRTN = selection.retrieved(lax.stop_gradient(scores_BGRTN))
        slots_BGRTN = selection.slots_to_attend_in(chosen_BGRTN, blocks_B11T1)

        def of_keys(x_N: jax.Array, fill: Any) -> jax.Array:
            """[..., N] -> [..., S]; no landmark stands behind the last keys."""
            x_S = jnp.repeat(x_N, width, axis=-1)
            left = [(0, 0)] * (x_N.ndim - 1) + [(0, keys - x_S.shape[-1])]
            return jnp.pad(x_S, left, constant_values=fill)

        in_memory_BTS = memory.branches[0].region.contains(pairs)
        far_BGRTS = in_slots(far_alone, of_keys(slots_BGRTN, 0))
        logits_BGRTS = jnp.where(in_memory_BTS[:, None, None], far_BGRTS, logits_BGRTS)
        seen = Tile(logits_BGRTS, pairs, visible_BTS, near, of_chunk)
        kept_BGRTS = selection.choose({}, seen) & (of_keys(chosen_BGRTN, False) | ~in_memory_BTS[:, None, None])
        return softmax_over(selection.regrouped(seen), kept_BGRTS, operands.values_BGSK)

    out_NBCGRK, log_normaliser_NBCGR = lax.map(attend, tiles)
    return whole(out_NBCGRK, length), whole(log_normaliser_NBCGR, length)


def _turned(q_BTGRK: jax.Array, positions: jax.Array, spec: AttentionSpec) -> jax.Array:
    """Queries turned further, by as many positions each."""
    rotation = spec.position.rotation
    if rotation is None:
        return q_BTGRK
    flat_BTHK = q_BTGRK.reshape(*q_BTGRK.shape[:2], -1, q_BTGRK.shape[-1])
    once = dataclasses.replace(rotation, scale=1.0)  # they are scaled already
    return rotate(flat_BTHK, positions.reshape(1, 1), rotation.at(0), once).reshape(q_BTGRK.shape)
