"""The coordinates of tokens, which positions, visibility and windows are about: of a text, or of the slots of a cache."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Pairs
from lmarch.visibility import Layout

PADDING = -1  # the index of padding and of empty slots, which nobody sees
ANY_DOCUMENT = -2  # the document of keys that belong to everyone's


class Coordinates(NamedTuple):
    """Int32 [B, T] or [1, T] each. What is None is the same for all tokens, or follows from the others."""

    indices: jax.Array  # the order of tokens in a row; PADDING: there is no token
    ranks: jax.Array  # the index of each token in its document
    positions: jax.Array | None = None  # None: they are the ranks
    windows: jax.Array | None = None  # window ids, see `visibility/parallel.py`; None: the text is in one piece
    documents: jax.Array | None = None  # pairs of different documents do not see each other; None: there is one
    prefix: jax.Array | None = None  # prefix decoder: tokens of the document that all of it sees, [B or 1, T or 1]
    # How many positions each token's whole text will span, [B or 1, T or 1], where only a part of it is here; None: all is.
    spans: jax.Array | None = None

    @property
    def where(self) -> jax.Array:
        """The position of each token."""
        return self.ranks if self.positions is None else self.positions


def text_coordinates(
    length: int,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    window_ids: jax.Array | None = None,
    layout: Layout | None = None,
    prefix: jax.Array | None = None,
) -> Coordinates:
    """Return the coordinates of a whole row of `length` tokens.

    Windows, and positions in them, follow from each document's length unless `window_ids` are given.
    """
    indices_1T = jnp.arange(length, dtype=jnp.int32)[None]
    documents = None if segment_ids is None else runs(segment_ids)
    ranks = indices_1T if documents is None else indices_1T - _in_document(jax.ops.segment_min, indices_1T, documents)
    if layout is not None and window_ids is None:
        window_ids, positions = layout.arrange(ranks, _document_length(ranks, documents))
    return Coordinates(indices_1T, ranks, positions, window_ids, documents, prefix)


def cross_coordinates(
    length: int, positions: jax.Array | None, segment_ids: jax.Array | None, *, real: jax.Array | None = None
) -> Coordinates:
    """Return the coordinates of a text that another one attends to, or that attends to another one.

    A document of one text meets that of the same id in the other: ids are names here, not just runs.

    Args:
      real: bool [B, T], which tokens are not padding; default: all.
    """
    at = text_coordinates(length, positions, segment_ids)._replace(documents=segment_ids)
    return at if real is None else at._replace(indices=jnp.where(real, at.indices, PADDING))


def pairs_of(queries_at: Coordinates, keys_at: Coordinates) -> Pairs:
    """Return the coordinates of all pairs, as arrays that broadcast to [B or 1, T, S]."""

    q, k = queries_at, keys_at
    windows: tuple[Any, Any] = (None, None)
    if q.windows is not None and k.windows is not None:
        windows = (q.windows[:, :, None], k.windows[:, None, :])
    return Pairs.of(
        positions=(q.where[:, :, None], k.where[:, None, :]),
        indices=(q.indices[:, :, None], k.indices[:, None, :]),
        ranks=(q.ranks[:, :, None], k.ranks[:, None, :]),
        windows=windows,
    )


def visible_pairs(spec: AttentionSpec, pairs: Pairs, queries_at: Coordinates, keys_at: Coordinates) -> jax.Array:
    """Return which of `pairs_of` are attended to, bool [B or 1, T, S]."""
    in_prefix = None if keys_at.prefix is None else (keys_at.ranks < keys_at.prefix)[:, None, :]
    visible: jax.Array = spec.visibility.contains(pairs, in_prefix)
    visible &= pairs.key_index > PADDING
    if queries_at.documents is not None and keys_at.documents is not None:
        of_key = keys_at.documents[:, None, :]
        visible &= (queries_at.documents[:, :, None] == of_key) | (of_key == ANY_DOCUMENT)
    return visible


def runs(segment_ids_BT: jax.Array) -> jax.Array:
    """Number the documents of a row 0, 1, ...: a document is a run of equal segment ids."""
    starts = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    return jnp.pad(jnp.cumsum(starts, axis=1, dtype=jnp.int32), [(0, 0), (1, 0)])


def _in_document(reduce: Any, values_BT: jax.Array, documents_BT: jax.Array) -> jax.Array:
    """Give every token the `reduce` of its document's values."""
    values_BT = jnp.broadcast_to(values_BT, documents_BT.shape)
    count = documents_BT.shape[1]
    reduced_BN = jax.vmap(lambda values, ids: reduce(values, ids, num_segments=count))(values_BT, documents_BT)
    return jnp.take_along_axis(reduced_BN, documents_BT, axis=1)


def _document_length(ranks_BT: jax.Array, documents_BT: jax.Array | None) -> jax.Array:
    """Return how many tokens each token's document has, int32 [B or 1, T]."""
    if documents_BT is None:
        return jnp.full_like(ranks_BT, ranks_BT.shape[1])
    return _in_document(jax.ops.segment_max, ranks_BT, documents_BT) + 1


def text_length(at: Coordinates) -> jax.Array:
    """Return how many positions each token's whole text spans, int32 [B, T or 1]: its largest position + 1."""
    if at.spans is not None:
        return at.spans
    if at.documents is None:
        return jnp.broadcast_to(at.where.max(axis=1, keepdims=True) + 1, at.where.shape)
    return _in_document(jax.ops.segment_max, at.where, at.documents) + 1


def length_so_far(spec: AttentionSpec, at: Coordinates, keys_at: Coordinates) -> jax.Array:
    """Return how many positions the text spans that each query may see, int32 [B or 1, T]."""
    if spec.mask_kind == "bidirectional":
        return text_length(at)
    own_BT = at.where + 1
    if at.prefix is None or keys_at.prefix is None:
        return own_BT
    in_prefix_BS = (keys_at.ranks < keys_at.prefix) & (keys_at.indices > PADDING)
    ends_BS = jnp.where(in_prefix_BS, keys_at.where + 1, 0)
    if keys_at.documents is None:
        return jnp.maximum(own_BT, ends_BS.max(axis=1, keepdims=True))
    return jnp.maximum(own_BT, _in_document(jax.ops.segment_max, ends_BS, keys_at.documents))


def of_same_id(values_BS: jax.Array, ids_BS: jax.Array, ids_BT: jax.Array, reduce: str) -> jax.Array:
    """Reduce, for each token of one text, the values of all tokens of the other that have its id, [B, T].

    In O(T + S) memory: both texts are sorted by id, and a token finds the end of its run by bisection.

    Args:
      reduce: `max` of values that are 0 or more (0 where there are none), or `sum`.
    """

    def row(values_S: jax.Array, ids_S: jax.Array, ids_T: jax.Array) -> jax.Array:
        order_S = jnp.argsort(ids_S)
        sorted_S = ids_S[order_S]
        segments_S = jnp.cumsum(jnp.pad(sorted_S[1:] != sorted_S[:-1], (1, 0)))
        operation = {"max": jax.ops.segment_max, "sum": jax.ops.segment_sum}[reduce]
        reduced_N = operation(values_S[order_S], segments_S, num_segments=ids_S.size)
        place_T = jnp.minimum(jnp.searchsorted(sorted_S, ids_T), ids_S.size - 1)
        return jnp.where(sorted_S[place_T] == ids_T, reduced_N[segments_S[place_T]], 0)

    batch = max(ids_BT.shape[0], ids_BS.shape[0])
    return jax.vmap(row)(*(jnp.broadcast_to(x, (batch, x.shape[1])) for x in (values_BS, ids_BS, ids_BT)))


def keys_of_document(documents_BT: jax.Array | None, keys_at: Coordinates) -> jax.Array:
    """Return how many keys of the other text each query sees, but at least 1, int32 [B or 1, T or 1].

    A query without keys has an output of 0; the logarithm of its count must stay finite for the gradients of others.
    """
    real_BS = (keys_at.indices > PADDING).astype(jnp.int32)
    if documents_BT is None or keys_at.documents is None:
        return jnp.maximum(real_BS.sum(axis=1, keepdims=True, dtype=jnp.int32), 1)
    return jnp.maximum(of_same_id(real_BS, keys_at.documents, documents_BT, "sum"), 1)


def visible_keys(spec: AttentionSpec, at: Coordinates) -> jax.Array:
    """Return how many keys the architecture (whatever the window) lets each query see, int32 [B or 1, T]."""
    if spec.mask_kind == "causal" or (spec.mask_kind == "prefix" and at.prefix is None):
        return at.ranks + 1
    if at.spans is not None and at.prefix is not None:  # in a cache, where a prefix is as long as it says
        return jnp.maximum(at.ranks + 1, at.prefix)
    whole = _document_length(at.ranks, at.documents)
    if spec.mask_kind == "bidirectional" or at.prefix is None:
        return whole
    return jnp.maximum(at.ranks + 1, jnp.minimum(at.prefix, whole))
