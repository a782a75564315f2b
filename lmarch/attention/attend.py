"""`attend`: the one attention computation, and the choice among its implementations."""

from collections.abc import Callable

import jax

from lmarch.attention.dense import dense
from lmarch.attention.operands import Operands, make_operands
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiled import tiled
from lmarch.errors import UserError, nearest

IMPLEMENTATIONS: dict[str, Callable[[Operands, AttentionSpec], jax.Array]] = {"dense": dense, "tiled": tiled}

# Up to here the whole [T, S] matrix is small and one fused product beats a loop over tiles (benchmarks/attention.py).
LARGEST_DENSE = 128


def choose(implementation: str, length: int) -> str:
    """What `auto` picks at this length: the dense product while it is small, tiles with O(T) memory beyond."""
    if implementation == "auto":
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
) -> jax.Array:
    """softmax(scale^2 <R(p) q, R(p) k> / sqrt(K) over visible keys) v.

    Args:
      q_BTHK: queries, unrotated. k_BSHK, v_BSHK: keys and values; their head count may be a divisor of H
        (grouped-query attention).
      spec: the layer; see `attention_spec`.
      implementation: `dense`, `tiled` or `auto`.
      positions: int32 [B, T] (or [1, T]); default 0 .. T-1.
      segment_ids: int32 [B, T]; tokens attend within their own id only.

    Returns:
      [B, T, H, K] in the dtype of the values. Logits and softmax are float32.

    Raises:
      UserError: shapes that do not fit each other or the spec.
    """
    heads, width = q_BTHK.shape[2:]
    if (heads, width) != (spec.num_heads, spec.head_dim):
        raise UserError(f"queries have {heads} heads of {width}, the spec {spec.num_heads} of {spec.head_dim}")
    if k_BSHK.shape != v_BSHK.shape or heads % k_BSHK.shape[2] or k_BSHK.shape[3] != width:
        raise UserError(f"keys {k_BSHK.shape} and values {v_BSHK.shape} do not fit queries {q_BTHK.shape}")
    if k_BSHK.shape[:2] != q_BTHK.shape[:2]:
        raise UserError(f"self-attention needs as many keys as queries: {k_BSHK.shape[:2]} and {q_BTHK.shape[:2]}")
    for name, given in (("positions", positions), ("segment_ids", segment_ids)):
        if given is not None and given.shape not in (q_BTHK.shape[:2], (1, q_BTHK.shape[1])):
            raise UserError(f"{name} have shape {given.shape}, queries {q_BTHK.shape[:2]} (batch, length)")
    operands = make_operands(q_BTHK, k_BSHK, v_BSHK, spec, positions, segment_ids)
    out_BTGRK = IMPLEMENTATIONS[choose(implementation, q_BTHK.shape[1])](operands, spec)
    return out_BTGRK.reshape(q_BTHK.shape)
