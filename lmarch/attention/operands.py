"""What every implementation of attention receives: queries and keys already rotated, once per branch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.rotation import rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Pairs, PositionMap
from lmarch.positions.position import Rotation


class Operands(NamedTuple):
    """G key-value heads, each shared by R query heads; one entry of `queries` and `keys` per branch of the spec."""

    queries: tuple[jax.Array, ...]  # [B, T, G, R, K], scaled by the temperature
    keys: tuple[jax.Array, ...]  # [B, S, G, K]
    values_BSGK: jax.Array
    positions_BT: jax.Array  # int32 [B, T] or [1, T], as the following ones
    ranks_BT: jax.Array  # index of each token in its document
    documents_BT: jax.Array | None  # 0, 1, ... in a row; pairs of different documents do not see each other
    in_prefix_BT: jax.Array | None  # whether the token belongs to its document's prefix
    bias: dict[str, jax.Array]  # what the bias learned
    logit_scale: float  # 1 / sqrt(K), applied to the float32 product


def make_operands(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    spec: AttentionSpec,
    positions_BT: jax.Array | None = None,
    segment_ids_BT: jax.Array | None = None,
    prefix_BT: jax.Array | None = None,
    learned: Mapping[str, jax.Array] | None = None,
) -> Operands:
    """Rotates queries and keys for each branch; branches with the same position map share one copy.

    Args:
      prefix_BT: each token's document's prefix length; [B or 1, T or 1].
      learned: what `spec.learned()` lists.
    """
    learned = dict(learned or {})
    batch, length, heads, width = q_BTHK.shape
    indices_1T = jnp.arange(length, dtype=jnp.int32)[None]
    documents = _documents(segment_ids_BT)
    ranks = indices_1T if documents is None else indices_1T - _in_document(jax.ops.segment_min, indices_1T, documents)
    positions = ranks if positions_BT is None else positions_BT
    position = spec.position

    if position.temperature is not None:
        count = _visible_keys(spec, ranks, documents, prefix_BT)
        lengths = _text_length(positions, documents)
        exact = jnp.promote_types(jnp.float32, q_BTHK.dtype)
        factor = position.temperature(count.astype(exact), lengths.astype(exact), learned)
        factor_BTHK = factor[..., None, None] if factor.ndim == 2 else factor[..., None]
        q_BTHK = (q_BTHK * factor_BTHK).astype(q_BTHK.dtype)

    queries, keys = [q_BTHK] * len(spec.branches), [k_BSGK] * len(spec.branches)
    if position.rotation is not None:
        frequencies = position.rotation.at(_text_length(positions, documents) if position.rotation.by_length else 0)
        rotation, places = position.rotation, {False: positions, True: ranks}
        ranked = [branch.ranked and positions_BT is not None for branch in spec.branches]  # else both are the same
        if rotation.log_decay is None:
            query_maps = [(branch.query, r) for branch, r in zip(spec.branches, ranked, strict=True)]
            key_maps = [(branch.key, r) for branch, r in zip(spec.branches, ranked, strict=True)]
            queries = _turned(q_BTHK, query_maps, places, frequencies, rotation)
            keys = _turned(k_BSGK, key_maps, places, frequencies, rotation)
        else:
            faded = [
                _fading_pair(q_BTHK, k_BSGK, b.query(places[b.ranked]), b.key(places[b.ranked]), frequencies, rotation)
                for b in spec.branches
            ]
            queries, keys = [q for q, _ in faded], [k for _, k in faded]

    grouped = (batch, length, k_BSGK.shape[2], heads // k_BSGK.shape[2], width)
    return Operands(
        tuple(q.reshape(grouped) for q in queries),
        tuple(keys),
        v_BSGK,
        positions,
        ranks,
        documents,
        None if prefix_BT is None else ranks < prefix_BT,
        {name: learned[name] for name in position.bias.parameters()} if position.bias else {},
        width**-0.5,
    )


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
    index = jnp.arange(operands.queries[0].shape[1], dtype=jnp.int32)[None]
    positions, ranks = operands.positions_BT, operands.ranks_BT
    return Pairs.of(*((x[:, :, None], x[:, None, :]) for x in (positions, index, ranks)))


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


def _text_length(positions_BT: jax.Array, documents_BT: jax.Array | None) -> jax.Array:
    """How many positions each token's text spans, int32 [B, T]: its largest position + 1."""
    if documents_BT is None:
        return jnp.broadcast_to(positions_BT.max(axis=1, keepdims=True) + 1, positions_BT.shape)
    return _in_document(jax.ops.segment_max, positions_BT, documents_BT) + 1


def _visible_keys(
    spec: AttentionSpec, ranks_BT: jax.Array, documents_BT: jax.Array | None, prefix_BT: jax.Array | None
) -> jax.Array:
    """How many keys the architecture (whatever the window) lets each query see, int32 [B or 1, T]."""
    if spec.sight == "causal" or (spec.sight == "prefix" and prefix_BT is None):
        return ranks_BT + 1
    whole = jnp.full_like(ranks_BT, ranks_BT.shape[1])
    if documents_BT is not None:
        whole = _in_document(jax.ops.segment_max, ranks_BT, documents_BT) + 1
    if spec.sight == "bidirectional" or prefix_BT is None:
        return whole
    return jnp.maximum(ranks_BT + 1, jnp.minimum(prefix_BT, whole))
