"""`attend`: the one attention computation of whole texts, from unrotated queries, keys and values."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lmarch.attention.coordinates import Coordinates, cross_coordinates, text_coordinates
from lmarch.attention.implementations import IMPLEMENTATIONS, choose
from lmarch.attention.operands import heads_first, make_operands
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.workload import Workload
from lmarch.content import Features
from lmarch.errors import UserError
from lmarch.registry import label
from lmarch.visibility.selection import Statistics


@functools.partial(jax.jit, static_argnames=("spec", "implementation", "other_rows"))
def attend(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGV: jax.Array,
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
    features: Mapping[str, Features] | None = None,
) -> jax.Array:
    """Compute softmax(temperature <R(p) q, R(p) k> / sqrt(K) + bias over visible keys) v.

    Queries and keys are of one text, T = S; in cross-attention of two, a document of one meeting that of the same
    segment id in the other.

    Args:
      q_BTHK: queries, unrotated.
      k_BSGK, v_BSGV: keys and values; their head count G may be a divisor of H (grouped-query attention), and values may
        be of another width than keys.
      spec: the layer; see `attention_spec`.
      implementation: `dense`, `tiled`, `fused` or `auto`; see `implementations.py`.
      positions: int32 [B, T] (or [1, T]); default 0, 1, ... from the start of each document.
      segment_ids: int32 [B, T]; tokens attend within their own document only, a run of equal ids.
      prefix_length: prefix decoder only: how many tokens of a document everyone in it sees. One for all, [B] for rows,
        or [B, T] giving every token that of its own document.
      window_ids: window `parallel` only, int32 [B, T] or [1, T]: how the text is cut (`visibility/parallel.py`), together
        with the `positions` in those windows. Default: as the window's parameters say.
      key_positions, key_segment_ids: cross-attention only, int32 [B, S] or [1, S]; ids are given for both texts or none.
      other_rows: selection `knn` only: contexts of so many other rows join every memory, as training wants it.
      learned: arrays for what `spec.learned()` lists.
      features: what each of `spec.content` computed of the tokens' states.

    Returns:
      [B, T, H, V] in the dtype of the values. Logits and softmax are float32.

    Raises:
      UserError: shapes that do not fit each other or the spec, a text longer than the position method can compute.
    """
    _check_heads(q_BTHK, k_BSGK, v_BSGV, spec)
    batch, length = q_BTHK.shape[:2]
    _check_tokens(
        {"positions": positions, "segment_ids": segment_ids, "window_ids": window_ids}, "queries", batch, length
    )
    keys_have = {"key_positions": key_positions, "key_segment_ids": key_segment_ids}
    _check_tokens(keys_have, "keys", batch, k_BSGK.shape[1])
    if spec.mask_kind == "cross":
        if (segment_ids is None) != (key_segment_ids is None):
            raise UserError(
                "cross-attention needs segment ids of both texts, or of none: segment_ids and key_segment_ids"
            )
    elif key_positions is not None or key_segment_ids is not None:
        raise UserError(
            "key_positions and key_segment_ids belong to cross-attention: here they are those of the queries"
        )
    layout = spec.visibility.layout
    if window_ids is not None and layout is None:
        raise UserError(f"window_ids belong to window 'parallel', and this layer has {spec.window}")
    if layout is not None and (window_ids is None) != (positions is None):
        raise UserError("window 'parallel' needs window_ids and positions together, or neither: one follows the other")
    if other_rows and spec.selection is None:
        raise UserError(f"other_rows={other_rows} belongs to selection 'knn', and this layer has none: leave it out")
    if missing := spec.learned().keys() - (learned or {}).keys():
        raise UserError(f"{spec.position.method} learns {', '.join(sorted(missing))}: pass them as `learned`")
    if missing := spec.content.keys() - (features or {}).keys():
        raise UserError(f"{', '.join(sorted(missing))} of this layer reads content: pass its `features`")
    prefix_BT = _prefix(prefix_length, spec, batch, length)
    if spec.mask_kind == "cross":
        queries_at = cross_coordinates(length, positions, segment_ids)
        keys_at = cross_coordinates(k_BSGK.shape[1], key_positions, key_segment_ids)
    else:
        queries_at = keys_at = text_coordinates(length, positions, segment_ids, window_ids, layout, prefix_BT)
    return attend_text(
        q_BTHK,
        k_BSGK,
        v_BSGV,
        spec,
        queries_at,
        keys_at,
        implementation=implementation,
        other_rows=other_rows,
        learned=learned,
        features=features,
    )


def attend_text(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGV: jax.Array,
    spec: AttentionSpec,
    queries_at: Coordinates,
    keys_at: Coordinates,
    *,
    implementation: str,
    other_rows: int = 0,
    learned: Mapping[str, jax.Array] | None = None,
    features: Mapping[str, Features] | None = None,
) -> jax.Array:
    """Return what `attend` does, of tokens whose coordinates are known."""
    if queries_at.documents is not None and spec.selection is not None and spec.selection.in_blocks:
        raise UserError(
            f"{label(spec.selection)} counts blocks from the start of a row: give one text a row, no segment_ids"
        )
    spec.check_length(q_BTHK.shape[1])
    keys, v_BGSV = (heads_first(k_BSGK),), heads_first(v_BSGV)
    if other_rows and spec.selection is not None:
        keys, v_BGSV, keys_at = spec.selection.beside_others(keys, v_BGSV, keys_at, other_rows)
    out_BTHV, _ = attend_to(
        q_BTHK,
        keys,
        v_BGSV,
        spec,
        queries_at,
        keys_at,
        implementation=implementation,
        learned=learned,
        features=features,
    )
    return out_BTHV


def attend_to(
    q_BTHK: jax.Array,
    keys: tuple[jax.Array, ...],
    v_BGSV: jax.Array,
    spec: AttentionSpec,
    queries_at: Coordinates,
    keys_at: Coordinates,
    *,
    implementation: str,
    learned: Mapping[str, jax.Array] | None = None,
    features: Mapping[str, Features] | None = None,
    statistics: Statistics | None = None,
) -> tuple[jax.Array, Statistics]:
    """Return what `attend` does, wherever queries and keys are.

    Args:
      keys: as they are, alone; of a cache, as `cacheable_keys` returns them.
      statistics: what a selection remembers of the keys in a cache; they are returned as these queries leave them. None:
        keys are not those of a cache.
    """
    learned, cached = dict(learned or {}), statistics is not None
    operands = make_operands(
        q_BTHK, keys, v_BGSV, spec, queries_at, keys_at, learned=learned, features=features, cached=cached
    )
    packed = any(x is not None for x in (queries_at.documents, queries_at.prefix, queries_at.windows))
    workload = Workload(
        spec=spec,
        queries=q_BTHK.shape[1],
        keys=v_BGSV.shape[2],
        dtype=q_BTHK.dtype,
        placed=operands.placed,
        packed=packed,
        cached=cached,
    )
    chosen, statistics = choose(implementation, workload), statistics or {}
    if spec.selection is not None:
        if reason := spec.selection.refuses(queries=workload.queries, placed=workload.placed, cached=cached):
            raise UserError(f"selection {label(spec.selection)}: {reason}")
        out_BTHV, log_normaliser_BTH, statistics = spec.selection.attend(
            operands, spec, statistics, chosen, cached=cached
        )
        out_BTHV = checkpoint_name(out_BTHV, "attention")  # as tiles do, see `tiled.py`
    else:
        out_BTHV, log_normaliser_BTH = IMPLEMENTATIONS[chosen].attend(operands, spec)
    if spec.sink:
        # A key without a value: the share of attention that it leaves is sigmoid(log-normaliser - its logit).
        share_BTH = jax.nn.sigmoid(log_normaliser_BTH - learned["sink_logit"][None, None])
        out_BTHV = (out_BTHV * share_BTH[..., None]).astype(out_BTHV.dtype)
    return out_BTHV, statistics


def _check_heads(q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGV: jax.Array, spec: AttentionSpec) -> None:
    heads, width = q_BTHK.shape[2:]
    if (heads, width) != (spec.num_heads, spec.head_dim):
        raise UserError(f"queries have {heads} heads of {width}, the spec {spec.num_heads} of {spec.head_dim}")
    wanted = (*k_BSGK.shape[:3], spec.value_dim)
    if v_BSGV.shape != wanted or heads % k_BSGK.shape[2] or k_BSGK.shape[3] != width:
        raise UserError(f"keys {k_BSGK.shape} and values {v_BSGV.shape} do not fit queries {q_BTHK.shape}")
    if k_BSGK.shape[0] != q_BTHK.shape[0]:
        raise UserError(f"keys are of {k_BSGK.shape[0]} rows, queries of {q_BTHK.shape[0]}: they must be the same rows")
    if spec.mask_kind != "cross" and k_BSGK.shape[1] != q_BTHK.shape[1]:
        raise UserError(f"self-attention needs as many keys as queries: {k_BSGK.shape[:2]} and {q_BTHK.shape[:2]}")
    if q_BTHK.dtype == jnp.float16 and spec.position.rotation and spec.position.rotation.log_decay:
        raise UserError(f"{spec.position.method} needs more range than float16 has: compute in float32 or bfloat16")


def _check_tokens(arrays: Mapping[str, jax.Array | None], who: str, batch: int, size: int) -> None:
    for name, array in arrays.items():
        if array is not None and array.shape not in ((batch, size), (1, size)):
            raise UserError(f"{name} have shape {array.shape}, {who} {(batch, size)} (batch, length)")


def _prefix(prefix_length: Any, spec: AttentionSpec, batch: int, length: int) -> jax.Array | None:
    """[B or 1, T or 1]."""
    if (prefix_length is not None) != (spec.mask_kind == "prefix"):
        wrong = "needs a prefix_length" if prefix_length is None else "has no prefix: leave prefix_length out"
        raise UserError(f"{spec.architecture} {wrong}")
    if prefix_length is None:
        return None
    prefix = jnp.asarray(prefix_length, jnp.int32)
    shapes = {(): (1, 1), (batch,): (batch, 1), (batch, length): (batch, length), (1, length): (1, length)}
    if prefix.shape not in shapes:
        raise UserError(f"prefix_length has shape {prefix.shape}: give one number, one a row, or one a token")
    return prefix.reshape(shapes[prefix.shape])
