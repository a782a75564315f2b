"""Where tokens are: the coordinates that positions, visibility and windows are about, of a text or of a cache's slots."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Pairs
from lmarch.visibility import Layout

NOWHERE = -1  # the index of padding and of empty slots, which nobody sees
ANYONES = -2  # the document of keys that belong to everyone's


class Places(NamedTuple):
    """Int32 [B, T] or [1, T] each."""

    positions: jax.Array
    indices: jax.Array  # the order of tokens in a row; NOWHERE: there is none
    ranks: jax.Array  # index of each token in its document
    windows: jax.Array | None = None  # window ids, see `visibility/parallel.py`; None: the text is in one piece
    documents: jax.Array | None = None  # pairs of different documents do not see each other; None: there is one
    # How many positions each token's whole text will span, [B or 1, T or 1], where only a part of it is here; None: all is.
    spans: jax.Array | None = None


def make_places(
    length: int,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    window_ids: jax.Array | None = None,
    layout: Layout | None = None,
) -> Places:
    """Of a whole row. Windows, and positions in them, follow from each document's length unless `window_ids` are given."""
    indices_1T = jnp.arange(length, dtype=jnp.int32)[None]
    documents = runs(segment_ids)
    ranks = indices_1T if documents is None else indices_1T - _in_document(jax.ops.segment_min, indices_1T, documents)
    if layout is not None and window_ids is None:
        window_ids, positions = layout.arrange(ranks, _document_length(ranks, documents))
    return Places(ranks if positions is None else positions, indices_1T, ranks, window_ids, documents)


def pairs_of(queries_at: Places, keys_at: Places) -> Pairs:
    """The coordinates of all pairs, as arrays that broadcast to [B or 1, T, S]."""

    def both(name: str) -> tuple[Any, Any]:
        query, key = getattr(queries_at, name), getattr(keys_at, name)
        return (None, None) if query is None or key is None else (query[:, :, None], key[:, None, :])

    return Pairs.of(both("positions"), both("indices"), both("ranks"), both("windows"))


def visible_pairs(spec: AttentionSpec, pairs: Pairs, queries_at: Places, keys_at: Places, in_prefix: Any) -> jax.Array:
    """Which of `pairs_of` are attended to, bool [B or 1, T, S]; `in_prefix` [B or 1, S] of keys, if there is a prefix."""
    visible: jax.Array = spec.visibility.contains(pairs, None if in_prefix is None else in_prefix[:, None, :])
    visible &= pairs.key_index > NOWHERE
    if queries_at.documents is not None and keys_at.documents is not None:
        of_key = keys_at.documents[:, None, :]
        visible &= (queries_at.documents[:, :, None] == of_key) | (of_key == ANYONES)
    return visible


def runs(segment_ids_BT: jax.Array | None) -> jax.Array | None:
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


def _document_length(ranks_BT: jax.Array, documents_BT: jax.Array | None) -> jax.Array:
    """How many tokens each token's document has, int32 [B or 1, T]."""
    if documents_BT is None:
        return jnp.full_like(ranks_BT, ranks_BT.shape[1])
    return _in_document(jax.ops.segment_max, ranks_BT, documents_BT) + 1


def text_length(at: Places) -> jax.Array:
    """How many positions each token's whole text spans, int32 [B, T or 1]: its largest position + 1."""
    if at.spans is not None:
        return at.spans
    if at.documents is None:
        return jnp.broadcast_to(at.positions.max(axis=1, keepdims=True) + 1, at.positions.shape)
    return _in_document(jax.ops.segment_max, at.positions, at.documents) + 1


def length_so_far(
    spec: AttentionSpec, at: Places, keys_at: Places, prefix_BT: jax.Array | None, prefix_BS: jax.Array | None
) -> jax.Array:
    """How many positions the text spans that each query may see, int32 [B or 1, T]."""
    if spec.sight == "bidirectional":
        return text_length(at)
    own_BT = at.positions + 1
    if prefix_BT is None or prefix_BS is None:
        return own_BT
    ends_BS = jnp.where((keys_at.ranks < prefix_BS) & (keys_at.indices > NOWHERE), keys_at.positions + 1, 0)
    if keys_at.documents is None:
        return jnp.maximum(own_BT, ends_BS.max(axis=1, keepdims=True))
    return jnp.maximum(own_BT, _in_document(jax.ops.segment_max, ends_BS, keys_at.documents))


def keys_of_document(documents_BT: jax.Array | None, keys_at: Places) -> jax.Array:
    """How many keys of the other text each query sees, but at least 1, int32 [B or 1, T or 1].

    A query without keys has an output of 0; the logarithm of its count must stay finite for the gradients of others.
    """
    if documents_BT is None or keys_at.documents is None:
        return jnp.maximum((keys_at.indices > NOWHERE).sum(axis=1, keepdims=True, dtype=jnp.int32), 1)
    seen_BT = (documents_BT[:, :, None] == keys_at.documents[:, None, :]).sum(-1, dtype=jnp.int32)
    return jnp.maximum(seen_BT, 1)


def visible_keys(spec: AttentionSpec, at: Places, prefix_BT: jax.Array | None) -> jax.Array:
    """How many keys the architecture (whatever the window) lets each query see, int32 [B or 1, T]."""
    if spec.sight == "causal" or (spec.sight == "prefix" and prefix_BT is None):
        return at.ranks + 1
    if at.spans is not None and prefix_BT is not None:  # in a cache, where a prefix is as long as it says
        return jnp.maximum(at.ranks + 1, prefix_BT)
    whole = _document_length(at.ranks, at.documents)
    if spec.sight == "bidirectional" or prefix_BT is None:
        return whole
    return jnp.maximum(at.ranks + 1, jnp.minimum(prefix_BT, whole))
