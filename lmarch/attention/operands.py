"""What every implementation of attention receives: queries and keys already rotated, once per branch.

Keys are turned apart from queries, so that a cache can keep them turned. Each of a layer's branches turns keys by a map of
positions; branches with the same map share one *copy* of the keys.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.places import Places, keys_of_document, make_places, text_length, visible_keys
from lmarch.attention.rotation import rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Branch, PositionMap
from lmarch.positions.position import Rotation


class Operands(NamedTuple):
    """G key-value heads, each shared by R query heads; one entry of `queries` and `keys` per branch of the spec."""

    queries: tuple[jax.Array, ...]  # [B, T, G, R, K], scaled by the temperature
    keys: tuple[jax.Array, ...]  # [B, G, S, K]
    values_BGSK: jax.Array
    queries_at: Places
    keys_at: Places  # in self-attention of a whole row the same
    in_prefix_BS: jax.Array | None  # whether the key belongs to its document's prefix
    bias: dict[str, jax.Array]  # what the bias learned


class Turn(NamedTuple):
    """How queries or keys are turned: by a map of positions, or of ranks."""

    by: PositionMap = PositionMap()
    ranked: bool = False


def key_turns(spec: AttentionSpec, placed: bool) -> tuple[Turn, ...]:
    """That of each branch; `placed`: whether positions are something else than ranks.

    Keys that are not turned (xPos's are where they meet their queries) are all alike.
    """
    rotation = spec.position.rotation
    if rotation is None or rotation.log_decay is not None:
        return (Turn(),) * len(spec.branches)
    return tuple(Turn(branch.key, branch.ranked and placed) for branch in spec.branches)


class Where(NamedTuple):
    """The tokens that attend, and those that are attended to."""

    queries_at: Places
    keys_at: Places  # in self-attention of whole texts the same
    placed: bool  # whether positions are something else than ranks


def places_of_texts(
    lengths: tuple[int, int],
    spec: AttentionSpec,
    positions_BT: jax.Array | None,
    segment_ids_BT: jax.Array | None,
    key_positions_BS: jax.Array | None,
    key_segment_ids_BS: jax.Array | None,
    window_ids_BT: jax.Array | None,
) -> Where:
    """Those of whole texts of so many queries and keys; see `attend`."""
    layout = spec.visibility.layout
    queries_at = keys_at = make_places(lengths[0], positions_BT, segment_ids_BT, window_ids_BT, layout)
    if spec.sight == "cross":
        # A document of one text meets that of the same id in the other: here ids are more than runs.
        queries_at = queries_at._replace(documents=segment_ids_BT)
        keys_at = make_places(lengths[1], key_positions_BS, key_segment_ids_BS)
        keys_at = keys_at._replace(documents=key_segment_ids_BS)
    placed = positions_BT is not None or key_positions_BS is not None or layout is not None
    return Where(queries_at, keys_at, placed)


Prefixes = tuple[jax.Array | None, jax.Array | None]  # the prefix length of each query's document, and of each key's


def beside_keys(
    q_BTHK: jax.Array,
    copies: Sequence[jax.Array],
    values_BGSK: jax.Array,
    spec: AttentionSpec,
    where: Where,
    prefixes: Prefixes,
    learned: Mapping[str, jax.Array] | None,
) -> Operands:
    """Queries rotated for each branch, beside keys that are already; `copies` as `turn_keys` returns them."""
    queries_at, keys_at, placed = where
    turns = key_turns(spec, placed)
    of_turn = dict(zip(dict.fromkeys(turns), copies, strict=True))
    keys = [of_turn[turn] for turn in turns]
    prefix_BT, prefix_BS = prefixes
    learned = dict(learned or {})
    batch, length, heads, width = q_BTHK.shape
    position = spec.position
    if position.temperature is not None:
        if spec.sight == "cross":
            count = lengths = keys_of_document(queries_at.documents, keys_at)
        else:
            count, lengths = visible_keys(spec, queries_at, prefix_BT), text_length(queries_at)
        exact = jnp.promote_types(jnp.float32, q_BTHK.dtype)
        factor = position.temperature(count.astype(exact), lengths.astype(exact), learned)
        factor_BTHK = factor[..., None, None] if factor.ndim == 2 else factor[..., None]
        q_BTHK = (q_BTHK * factor_BTHK).astype(q_BTHK.dtype)

    rotation = position.rotation
    if rotation is None:
        queries = [q_BTHK] * len(spec.branches)
    elif rotation.log_decay is None:
        of_queries = [Turn(branch.query, branch.ranked and placed) for branch in spec.branches]
        queries = _turned(q_BTHK, of_queries, queries_at, rotation)
    else:
        pairs = [
            _fading_pair(q_BTHK, k, branch, queries_at, keys_at, rotation)
            for branch, k in zip(spec.branches, keys, strict=True)
        ]
        queries, keys = [q for q, _ in pairs], [k for _, k in pairs]

    grouped = (batch, length, values_BGSK.shape[1], heads // values_BGSK.shape[1], width)
    return Operands(
        tuple(q.reshape(grouped) for q in queries),
        tuple(keys),
        values_BGSK,
        queries_at,
        keys_at,
        None if prefix_BS is None else keys_at.ranks < prefix_BS,
        {name: learned[name] for name in position.bias.parameters()} if position.bias else {},
    )


def turn_keys(k_BGSK: jax.Array, spec: AttentionSpec, at: Places, *, placed: bool) -> tuple[jax.Array, ...]:
    """A copy of the keys for each of the different `key_turns`, [B, G, S, K]."""
    rotation = spec.position.rotation
    if rotation is None or rotation.log_decay is not None:
        return (k_BGSK,)
    copies = _turned(k_BGSK, key_turns(spec, placed), at, rotation, heads_axis=1)
    return tuple(dict(zip(key_turns(spec, placed), copies, strict=True)).values())


def heads_first(x: jax.Array) -> jax.Array:
    """[B, S, G, K] -> [B, G, S, K]: what products with few queries, and tiles, read without a copy."""
    return x.swapaxes(1, 2)


def _turned(
    x: jax.Array, turns: Sequence[Turn], at: Places, rotation: Rotation, heads_axis: int = 2
) -> list[jax.Array]:
    """x as turned in each way; equal ones share one copy."""
    frequencies = rotation.at(text_length(at) if rotation.by_length else 0)
    copies = {
        turn: rotate(
            x, turn.by(at.ranks if turn.ranked else at.positions), frequencies, rotation, heads_axis=heads_axis
        )
        for turn in dict.fromkeys(turns)
    }
    return [copies[turn] for turn in turns]


def _fading_pair(
    q_BTHK: jax.Array, k_BGSK: jax.Array, branch: Branch, queries_at: Places, keys_at: Places, rotation: Rotation
) -> tuple[jax.Array, jax.Array]:
    """Queries fade by exp(log_decay t), keys by exp(-log_decay s): a pair by its distance.

    Both exponents are counted from the middle of all positions of the row, or one side would overflow.
    """
    at = [at.ranks if branch.ranked else at.positions for at in (queries_at, keys_at)]
    t, s = branch.query(at[0]), branch.key(at[1])
    low = jnp.minimum(*(x.min(axis=1, keepdims=True) for x in (t, s)))
    high = jnp.maximum(*(x.max(axis=1, keepdims=True) for x in (t, s)))
    middle, frequencies = (low + high) // 2, rotation.at(0)
    faded = rotate(k_BGSK, s, frequencies, rotation, middle - s, heads_axis=1)
    return rotate(q_BTHK, t, frequencies, rotation, t - middle), faded
