"""What every implementation of attention receives: queries and keys already rotated, once per branch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.rotation import rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Pairs, PositionMap
from lmarch.positions.position import Rotation


class Places(NamedTuple):
    """Where the tokens of a text are: int32 [B, T] or [1, T] each."""

    positions: jax.Array
    ranks: jax.Array  # index of each token in its document
    documents: jax.Array | None  # pairs of different documents do not see each other; None: there is one


class Operands(NamedTuple):
    """G key-value heads, each shared by R query heads; one entry of `queries` and `keys` per branch of the spec."""

    queries: tuple[jax.Array, ...]  # [B, T, G, R, K], scaled by the temperature
    keys: tuple[jax.Array, ...]  # [B, S, G, K]
    values_BSGK: jax.Array
    queries_at: Places
    keys_at: Places  # in self-attention the same
    in_prefix_BS: jax.Array | None  # whether the key belongs to its document's prefix
    bias: dict[str, jax.Array]  # what the bias learned


def make_operands(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    spec: AttentionSpec,
    positions_BT: jax.Array | None = None,
    segment_ids_BT: jax.Array | None = None,
    prefix_BT: jax.Array | None = None,
    learned: Mapping[str, jax.Array] | None = None,
    key_positions_BS: jax.Array | None = None,
    key_segment_ids_BS: jax.Array | None = None,
) -> Operands:
    """Rotates queries and keys for each branch; branches with the same position map share one copy.

    Args:
      prefix_BT: each token's document's prefix length; [B or 1, T or 1].
      learned: what `spec.learned()` lists.
      key_positions_BS, key_segment_ids_BS: cross-attention only, where keys are of another text.
    """
    learned = dict(learned or {})
    batch, length, heads, width = q_BTHK.shape
    position, cross = spec.position, spec.sight == "cross"
    queries_at = keys_at = _places(length, positions_BT, segment_ids_BT)
    if cross:
        # A document of one text meets that of the same id in the other: here ids are more than runs.
        queries_at = queries_at._replace(documents=segment_ids_BT)
        keys_at = _places(k_BSGK.shape[1], key_positions_BS, key_segment_ids_BS)._replace(documents=key_segment_ids_BS)

    if position.temperature is not None:
        if cross:
            count = lengths = _keys_of_document(queries_at.documents, keys_at)
        else:
            count = _visible_keys(spec, queries_at, prefix_BT)
            lengths = _text_length(queries_at)
        exact = jnp.promote_types(jnp.float32, q_BTHK.dtype)
        factor = position.temperature(count.astype(exact), lengths.astype(exact), learned)
        factor_BTHK = factor[..., None, None] if factor.ndim == 2 else factor[..., None]
        q_BTHK = (q_BTHK * factor_BTHK).astype(q_BTHK.dtype)

    queries, keys = [q_BTHK] * len(spec.branches), [k_BSGK] * len(spec.branches)
    if position.rotation is not None:
        frequencies = position.rotation.at(_text_length(queries_at) if position.rotation.by_length else 0)
        rotation = position.rotation
        query_places, key_places = ({False: at.positions, True: at.ranks} for at in (queries_at, keys_at))
        ranked = [branch.ranked and positions_BT is not None for branch in spec.branches]  # else both are the same
        if rotation.log_decay is None:
            query_maps = [(branch.query, r) for branch, r in zip(spec.branches, ranked, strict=True)]
            key_maps = [(branch.key, r) for branch, r in zip(spec.branches, ranked, strict=True)]
            queries = _turned(q_BTHK, query_maps, query_places, frequencies, rotation)
            keys = _turned(k_BSGK, key_maps, key_places, frequencies, rotation)
        else:
            positions = [(b.query(query_places[b.ranked]), b.key(key_places[b.ranked])) for b in spec.branches]
            faded = [_fading_pair(q_BTHK, k_BSGK, t, s, frequencies, rotation) for t, s in positions]
            queries, keys = [q for q, _ in faded], [k for _, k in faded]

    grouped = (batch, length, k_BSGK.shape[2], heads // k_BSGK.shape[2], width)
    return Operands(
        tuple(q.reshape(grouped) for q in queries),
        tuple(keys),
        v_BSGK,
        queries_at,
        keys_at,
        None if prefix_BT is None else keys_at.ranks < prefix_BT,
        {name: learned[name] for name in position.bias.parameters()} if position.bias else {},
    )


def _places(length: int, positions: jax.Array | None, segment_ids: jax.Array | None) -> Places:
    indices_1T = jnp.arange(length, dtype=jnp.int32)[None]
    documents = _documents(segment_ids)
    ranks = indices_1T if documents is None else indices_1T - _in_document(jax.ops.segment_min, indices_1T, documents)
    return Places(ranks if positions is None else positions, ranks, documents)


def _turned(
    x: jax.Array,
    maps: list[tuple[PositionMap, bool]],
    places: dict[bool, jax.Array],
    frequencies: Any,
    rotation: Rotation,
) -> list[jax.Array]:
    """x as turned by each map of positions, or of ranks; equal maps share one copy."""
    copies = {(m, ranked): rotate(x, m(places[ranked]), frequencies, rotation) for m, ranked in dict.fromkeys(maps)}
    return [copies[m] for m in maps]


def _fading_pair(
    q: jax.Array, k: jax.Array, t: jax.Array, s: jax.Array, frequencies: Any, rotation: Rotation
) -> tuple[jax.Array, jax.Array]:
    """Queries fade by exp(log_decay t), keys by exp(-log_decay s): a pair by its distance.

    Both exponents are counted from the middle of all positions of the row, or one side would overflow.
    """
    both = jnp.concatenate([t, s], axis=1)
    middle = (both.max(axis=1, keepdims=True) + both.min(axis=1, keepdims=True)) // 2
    return rotate(q, t, frequencies, rotation, t - middle), rotate(k, s, frequencies, rotation, middle - s)


def pairs_of(operands: Operands) -> Pairs:
    """The coordinates of all pairs, as arrays that broadcast to [B or 1, T, S]."""
    sides = (operands.queries_at, operands.queries[0].shape[1]), (operands.keys_at, operands.keys[0].shape[1])
    coordinates = [(at.positions, jnp.arange(size, dtype=jnp.int32)[None], at.ranks) for at, size in sides]
    return Pairs.of(*((t[:, :, None], s[:, None, :]) for t, s in zip(*coordinates, strict=True)))


def _documents(segment_ids_BT: jax.Array | None) -> jax.Array | None:
    """Documents of a row numbered 0, 1, ...: a document is a run of equal segment ids."""
    if segment_ids_BT is None:
        return None
    starts = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    return jnp.pad(jnp.cumsum(starts, axis=1, dtype=jnp.int32), [(0, 0), (1, 0)])


def _in_document(reduce: Any, values_BT: jax.Array, documents_BT: jax.Array) -> jax.Array:
    """`reduce` over the values of each document, given to every token of it."""
    values_BT = jnp.broadcast_to(values_BT, documents_BT.shape)
    count = documents_BT.shape[1]
    reduced_BN = jax.vmap(lambda values, ids: reduce(values, ids, num_segments=count))(values_BT, documents_BT)
    return jnp.take_along_axis(reduced_BN, documents_BT, axis=1)


def _text_length(at: Places) -> jax.Array:
    """How many positions each token's text spans, int32 [B, T]: its largest position + 1."""
    if at.documents is None:
        return jnp.broadcast_to(at.positions.max(axis=1, keepdims=True) + 1, at.positions.shape)
    return _in_document(jax.ops.segment_max, at.positions, at.documents) + 1


def _keys_of_document(documents_BT: jax.Array | None, keys_at: Places) -> jax.Array:
    """How many keys of the other text each query sees, but at least 1, int32 [B or 1, T or 1].

    A query without keys has an output of 0; the logarithm of its count must stay finite for the gradients of others.
    """
    if documents_BT is None or keys_at.documents is None:
        return jnp.full((1, 1), keys_at.ranks.shape[1], jnp.int32)
    seen_BT = (documents_BT[:, :, None] == keys_at.documents[:, None, :]).sum(-1, dtype=jnp.int32)
    return jnp.maximum(seen_BT, 1)


def _visible_keys(spec: AttentionSpec, at: Places, prefix_BT: jax.Array | None) -> jax.Array:
    """How many keys the architecture (whatever the window) lets each query see, int32 [B or 1, T]."""
    ranks_BT, documents_BT = at.ranks, at.documents
    if spec.sight == "causal" or (spec.sight == "prefix" and prefix_BT is None):
        return ranks_BT + 1
    whole = jnp.full_like(ranks_BT, ranks_BT.shape[1])
    if documents_BT is not None:
        whole = _in_document(jax.ops.segment_max, ranks_BT, documents_BT) + 1
    if spec.sight == "bidirectional" or prefix_BT is None:
        return whole
    return jnp.maximum(ranks_BT + 1, jnp.minimum(prefix_BT, whole))
