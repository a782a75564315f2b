"""`attend`: the one attention computation, and the choice among its implementations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lmarch.attention.dense import dense
from lmarch.attention.fused import calls, fused, served_by_cudnn
from lmarch.attention.landmark import retrieving
from lmarch.attention.operands import (
    Operands,
    Prefixes,
    Where,
    beside_keys,
    heads_first,
    places_of_texts,
    turn_keys,
)
from lmarch.attention.others import beside_others
from lmarch.attention.places import Places
from lmarch.attention.selected import of_pages, selected
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.stepwise import stepwise
from lmarch.attention.tiled import TILE, tiled
from lmarch.errors import UserError, nearest
from lmarch.registry import label
from lmarch.visibility.selection import Knn, Landmark, Quest, Statistics

Implementation = Callable[[Operands, AttentionSpec], tuple[jax.Array, jax.Array]]
IMPLEMENTATIONS: dict[str, Implementation] = {"dense": dense, "tiled": tiled, "fused": fused}

# Up to here the whole [T, S] matrix is small and one fused product beats a loop over tiles (benchmarks/attention.py).
LARGEST_DENSE = 128


def choose(implementation: str, spec: AttentionSpec, length: int, *, packed: bool, dtype: Any) -> str:
    """What `auto` picks.

    cuDNN's kernel where it serves the spec in one call; else the dense product while it is small, and tiles beyond. Two
    merged calls are never picked: cuDNN returns the logarithm they are merged by in half precision.

    Args:
      length: of the longer of the two texts.
      packed: whether segment ids or positions are given.
      dtype: of the queries.
    """
    if implementation == "auto":
        planned = None if packed else calls(spec, length)
        if planned is not None and len(planned) == 1 and served_by_cudnn(dtype, spec.head_dim):
            return "fused"
        return "dense" if length <= LARGEST_DENSE else "tiled"
    if implementation not in IMPLEMENTATIONS:
        raise UserError(
            f"unknown implementation {implementation!r}; {nearest(implementation, [*IMPLEMENTATIONS, 'auto'])}"
        )
    return implementation


def attend(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    spec: AttentionSpec,
    *,
    implementation: str = "auto",
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    prefix_length: int | jax.Array | None = None,
    window_ids: jax.Array | None = None,
    key_positions: jax.Array | None = None,
    key_segment_ids: jax.Array | None = None,
    other_rows: int = 0,
    learned: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """softmax(temperature <R(p) q, R(p) k> / sqrt(K) + bias over visible keys) v.

    Queries and keys are of one text, T = S; in cross-attention of two, a document of one meeting that of the same
    segment id in the other.

    Args:
      q_BTHK: queries, unrotated. k_BSHK, v_BSHK: keys and values; their head count may be a divisor of H
        (grouped-query attention).
      spec: the layer; see `attention_spec`.
      implementation: `dense`, `tiled`, `fused` or `auto`.
      positions: int32 [B, T] (or [1, T]); default 0, 1, ... from the start of each document.
      segment_ids: int32 [B, T]; tokens attend within their own document only, a run of equal ids.
      prefix_length: prefix decoder only: how many tokens of a document everyone in it sees. One for all, [B] for rows,
        or [B, T] giving every token that of its own document.
      window_ids: window `parallel` only, int32 [B, T] or [1, T]: how the text is cut (`visibility/parallel.py`), together
        with the `positions` in those windows. Default: as the window's parameters say.
      key_positions, key_segment_ids: cross-attention only, int32 [B, S] or [1, S]; ids are given for both texts or none.
      other_rows: selection `knn` only: contexts of so many other rows join every memory, as training wants it (`others.py`).
      learned: arrays for what `spec.learned()` lists.

    Returns:
      [B, T, H, K] in the dtype of the values. Logits and softmax are float32.

    Raises:
      UserError: shapes that do not fit each other or the spec, a text longer than the position method can compute.
    """
    _check(q_BTHK, k_BSHK, v_BSHK, spec)
    batch, length = q_BTHK.shape[:2]
    keys = k_BSHK.shape[1]
    queries_have, keys_have = ("queries", length), ("keys", keys)
    for name, given, (who, size) in (
        ("positions", positions, queries_have),
        ("segment_ids", segment_ids, queries_have),
        ("window_ids", window_ids, queries_have),
        ("key_positions", key_positions, keys_have),
        ("key_segment_ids", key_segment_ids, keys_have),
    ):
        if given is not None and given.shape not in ((batch, size), (1, size)):
            raise UserError(f"{name} have shape {given.shape}, {who} {(batch, size)} (batch, length)")
    of_keys = key_positions is not None or key_segment_ids is not None
    if of_keys and spec.sight != "cross":
        raise UserError(
            "key_positions and key_segment_ids belong to cross-attention: here they are those of the queries"
        )
    if spec.sight == "cross" and (segment_ids is None) != (key_segment_ids is None):
        raise UserError("cross-attention needs segment ids of both texts, or of none: segment_ids and key_segment_ids")
    if segment_ids is not None and spec.selection is not None and spec.selection.in_blocks:
        raise UserError(
            f"{label(spec.selection)} counts blocks from the start of a row: give one text a row, no segment_ids"
        )
    if missing := spec.learned().keys() - (learned or {}).keys():
        raise UserError(f"{spec.position.method} learns {', '.join(sorted(missing))}: pass them as `learned`")
    prefix_BT = _prefix(prefix_length, spec, batch, length)
    layout = spec.visibility.layout
    if window_ids is not None and layout is None:
        raise UserError(f"window_ids belong to window 'parallel', and this layer has {spec.window}")
    if layout is not None and (window_ids is None) != (positions is None):
        raise UserError("window 'parallel' needs window_ids and positions together, or neither: one follows the other")
    placed = positions is not None or key_positions is not None or layout is not None
    packed = placed or segment_ids is not None or prefix_BT is not None
    chosen = choose(implementation, spec, max(length, keys), packed=packed, dtype=q_BTHK.dtype)
    if chosen == "fused" and (placed or spec.selection is not None):
        raise UserError("implementation='fused' knows positions 0 .. T-1 and no selection: choose 'tiled' or 'auto'")
    texts = (positions, segment_ids, key_positions, key_segment_ids, window_ids)
    where = places_of_texts((length, keys), spec, *texts)
    prefixes = prefix_BT, prefix_BT  # in self-attention of whole texts queries and keys are the same tokens
    copies = keep_keys(heads_first(k_BSHK), spec, where.keys_at, placed=where.placed)
    v_BGSK = heads_first(v_BSHK)
    if isinstance(spec.selection, Knn) and spec.selection.local is not None and other_rows:
        if not 0 < other_rows < batch:
            raise UserError(f"other_rows={other_rows}: there are {batch - 1} others in a batch of {batch}")
        copies, v_BGSK, keys_at = beside_others(copies, v_BGSK, where.keys_at, spec.selection.local, other_rows)
        where = where._replace(keys_at=keys_at)
    return attend_to(q_BTHK, copies, v_BGSK, spec, where, prefixes, learned, chosen)[0]


def keep_keys(k_BGSK: jax.Array, spec: AttentionSpec, at: Places, *, placed: bool) -> tuple[jax.Array, ...]:
    """What `attend_to` takes, and a cache keeps: keys turned, or as they are where each query turns them (stepwise)."""
    return (k_BGSK,) if spec.stepwise else turn_keys(k_BGSK, spec, at, placed=placed)


def attend_to(
    q_BTHK: jax.Array,
    kept: Sequence[jax.Array],
    v_BGSK: jax.Array,
    spec: AttentionSpec,
    where: Where,
    prefixes: Prefixes,
    learned: Mapping[str, jax.Array] | None,
    implementation: str,
    statistics: Statistics | None = None,
) -> tuple[jax.Array, Statistics]:
    """`attend`, wherever queries and keys are; `kept` as `keep_keys` returns them.

    Args:
      statistics: what a selection remembers of the keys, in a cache; it is returned as these queries leave it.
    """
    selection, in_cache, statistics = spec.selection, statistics is not None, statistics or {}
    if spec.stepwise:
        out_BTGRK, log_normaliser_BTGR = stepwise(q_BTHK, kept[0], v_BGSK, spec, where, prefixes, learned)
    else:
        operands = beside_keys(q_BTHK, kept, v_BGSK, spec, where, prefixes, learned)
        one = in_cache and q_BTHK.shape[1] == 1
        if isinstance(selection, Quest) and one:
            out_BTGRK, log_normaliser_BTGR = of_pages(operands, spec, statistics)
        elif isinstance(selection, Landmark) and selection.top is not None:
            if where.placed:
                raise UserError(f"landmark top={selection.top} places retrieved blocks itself: leave positions out")
            tile = q_BTHK.shape[1] if implementation == "dense" else TILE
            out_BTGRK, log_normaliser_BTGR = retrieving(operands, spec, tile)
        elif selection is None or (isinstance(selection, Quest) and selection.prefill == "dense"):
            out_BTGRK, log_normaliser_BTGR = IMPLEMENTATIONS[implementation](operands, spec)
        else:
            tile = q_BTHK.shape[1] if implementation == "dense" else TILE
            out_BTGRK, log_normaliser_BTGR, statistics = selected(operands, spec, statistics, tile)
    out_BTHK = out_BTGRK.reshape(q_BTHK.shape)
    if spec.sink:
        # A key without a value: the share of attention that it leaves is sigmoid(log-normaliser - its logit).
        sink_11H = (learned or {})["sink_logit"][None, None]
        share_BTH = jax.nn.sigmoid(log_normaliser_BTGR.reshape(out_BTHK.shape[:3]) - sink_11H)
        out_BTHK = (out_BTHK * share_BTH[..., None]).astype(out_BTHK.dtype)
    return out_BTHK, statistics


def _check(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, spec: AttentionSpec) -> None:
    heads, width = q_BTHK.shape[2:]
    if (heads, width) != (spec.num_heads, spec.head_dim):
        raise UserError(f"queries have {heads} heads of {width}, the spec {spec.num_heads} of {spec.head_dim}")
    if k_BSHK.shape != v_BSHK.shape or heads % k_BSHK.shape[2] or k_BSHK.shape[3] != width:
        raise UserError(f"keys {k_BSHK.shape} and values {v_BSHK.shape} do not fit queries {q_BTHK.shape}")
    if k_BSHK.shape[0] != q_BTHK.shape[0]:
        raise UserError(f"keys are of {k_BSHK.shape[0]} rows, queries of {q_BTHK.shape[0]}: they must be the same rows")
    if spec.sight != "cross" and k_BSHK.shape[1] != q_BTHK.shape[1]:
        raise UserError(f"self-attention needs as many keys as queries: {k_BSHK.shape[:2]} and {q_BTHK.shape[:2]}")
    spec.check_length(q_BTHK.shape[1])
    if isinstance(spec.selection, Quest) and spec.selection.prefill == "dense" and q_BTHK.shape[1] > 1:
        raise UserError(
            "quest reads a text without a selection and selects only while it decodes: prefill=selected lets every "
            "query of a text choose as if it were decoded"
        )
    if q_BTHK.dtype == jnp.float16 and spec.position.rotation and spec.position.rotation.log_decay:
        raise UserError(f"{spec.position.method} needs more range than float16 has: compute in float32 or bfloat16")


def _prefix(prefix_length: Any, spec: AttentionSpec, batch: int, length: int) -> jax.Array | None:
    """[B or 1, T or 1]."""
    if (prefix_length is not None) != (spec.sight == "prefix"):
        wrong = "needs a prefix_length" if prefix_length is None else "has no prefix: leave prefix_length out"
        raise UserError(f"{spec.architecture} {wrong}")
    if prefix_length is None:
        return None
    prefix = jnp.asarray(prefix_length, jnp.int32)
    shapes = {(): (1, 1), (batch,): (batch, 1), (batch, length): (batch, length), (1, length): (1, length)}
    if prefix.shape not in shapes:
        raise UserError(f"prefix_length has shape {prefix.shape}: give one number, one a row, or one a token")
    return prefix.reshape(shapes[prefix.shape])
