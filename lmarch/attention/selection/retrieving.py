"""Attention to retrieved blocks: the text is read in chunks, and each head of each query takes a few blocks from before.

Where a block is, is decided with its choice (`Landmark`). Turning keys for every query and head would take a copy of the keys
each. Here keys are turned once, by their place in their block, and queries once for each of the few slots that a block may
be in: R(t) against R(slot width + u) is R(t - slot width) against R(u).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lmarch.attention.coordinates import PADDING, Coordinates, pairs_of
from lmarch.attention.dense import scores, softmax_over
from lmarch.attention.operands import Operands, Rotated, rotated
from lmarch.attention.rotation import make_wave, rotate
from lmarch.attention.selection.choosing import Tile
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import coordinates_in_tiles, in_tiles, whole


def retrieving(selection: Any, operands: Operands, spec: AttentionSpec, tile: int) -> tuple[jax.Array, jax.Array]:
    """Return what `dense` does, over each query's chunk and the blocks it retrieves, in O(tile x S) memory.

    Args:
      selection: a `Landmark` with `top`.
    """
    assert selection.top is not None
    top, width, length = selection.top, selection.width, operands.q_BTHK.shape[1]
    tile = min(tile, length)
    chunk, memory = (dataclasses.replace(spec, branches=(branch,)) for branch in spec.branches)
    both = rotated(operands, spec)
    of_chunk, of_memory = both.keys
    tiles = tuple(in_tiles(q, tile) for q in both.queries), coordinates_in_tiles(operands.queries_at, tile)
    landmarks = slice(selection.block, None, width)
    landmarks_at = jax.tree.map(lambda x: x[:, landmarks], operands.keys_at._replace(spans=None))

    def in_slots(q_BTGRK: jax.Array, k_BGSK: jax.Array, some: Operands, slots_BGRTS: jax.Array) -> jax.Array:
        """Return logits [B, G, R, T, S] of keys in slots; queries are turned for the first."""

        def slot(logits_BGRTS: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            turned = Rotated((_turned(q_BTGRK, -number * width, spec),), (k_BGSK,))
            here_BGRTS = scores(turned, some, memory).logits_BGRTS
            return jnp.where(slots_BGRTS == number, here_BGRTS, logits_BGRTS), None

        first_BGRTS = scores(Rotated((q_BTGRK,), (k_BGSK,)), some, memory).logits_BGRTS
        return lax.scan(slot, first_BGRTS, jnp.arange(1, top + 1))[0]

    @jax.checkpoint
    def attend(of_tile: tuple[tuple[jax.Array, jax.Array], Coordinates]) -> tuple[jax.Array, jax.Array]:
        (near, far), at = of_tile
        here = operands._replace(queries_at=at)
        near_scores = scores(Rotated((near,), (of_chunk,)), here, chunk)
        logits_BGRTS, visible_BTS = near_scores
        pairs, keys = pairs_of(at, operands.keys_at), logits_BGRTS.shape[-1]

        # The choice.
        mark_pairs = pairs_of(at, landmarks_at)
        in_memory_BTN = memory.branches[0].region.contains(mark_pairs) & (mark_pairs.key_index > PADDING)
        blocks_B11T1 = selection.memory(pairs.query_index)[:, None, None]
        slots_B11TN = selection.slots_to_choose_by(blocks_B11T1, in_memory_BTN.shape[-1])
        marks = here._replace(keys_at=landmarks_at)
        of_marks_BGRTN = in_slots(far, of_memory[:, :, landmarks], marks, slots_B11TN)
        scores_BGRTN = jnp.where(in_memory_BTN[:, None, None], of_marks_BGRTN, -jnp.inf)
        chosen_BGRTN = selection.retrieved(lax.stop_gradient(scores_BGRTN))
        slots_BGRTN = selection.slots_to_attend_in(chosen_BGRTN, blocks_B11T1)

        def of_keys(x_N: jax.Array, fill: Any) -> jax.Array:
            """[..., N] -> [..., S]; no landmark stands behind the last keys."""
            x_S = jnp.repeat(x_N, width, axis=-1)
            left = [(0, 0)] * (x_N.ndim - 1) + [(0, keys - x_S.shape[-1])]
            return jnp.pad(x_S, left, constant_values=fill)

        in_memory_BTS = memory.branches[0].region.contains(pairs)
        far_BGRTS = in_slots(far, of_memory, here, of_keys(slots_BGRTN, 0))
        logits_BGRTS = jnp.where(in_memory_BTS[:, None, None], far_BGRTS, logits_BGRTS)
        seen = Tile(
            logits_BGRTS=logits_BGRTS,
            pairs=pairs,
            candidates_BTS=visible_BTS,
            queries_BTGRK=near,
            keys_BGSK=of_chunk,
            queries_at=at,
            keys_at=operands.keys_at,
            learned=operands.learned,
            features=None,
        )
        kept_BGRTS = selection.choose({}, seen) & (of_keys(chosen_BGRTN, False) | ~in_memory_BTS[:, None, None])
        return softmax_over(selection.regrouped(seen), kept_BGRTS, operands.v_BGSV)

    out_NBCHV, log_normaliser_NBCH = lax.map(attend, tiles)
    return whole(out_NBCHV, length), whole(log_normaliser_NBCH, length)


def _turned(q_BTGRK: jax.Array, positions: jax.Array, spec: AttentionSpec) -> jax.Array:
    """Turn queries further, all by as many positions."""
    rotation = spec.position.rotation
    if rotation is None:
        return q_BTGRK
    flat_BTHK = q_BTGRK.reshape(*q_BTGRK.shape[:2], -1, q_BTGRK.shape[-1])
    once = dataclasses.replace(rotation, scale=1.0)  # they are scaled already
    wave = make_wave(positions.reshape(1, 1), rotation.at(0), once, q_BTGRK.dtype)
    return rotate(flat_BTHK, wave).reshape(q_BTGRK.shape)
