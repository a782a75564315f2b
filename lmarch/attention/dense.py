"""The oracle: attention as its definition reads, with the whole [T, S] matrix in memory."""

import jax
import jax.numpy as jnp

from lmarch.attention.operands import Operands
from lmarch.attention.spec import AttentionSpec

MASKED = -1e30  # finite, so that a row of it has no NaN; beside any visible logit its weight is exactly 0


def dense(operands: Operands, spec: AttentionSpec) -> jax.Array:
    """softmax(logits over visible keys) v, [B, T, G, R, K]; a query that sees nothing gets zeros."""
    length, keys = operands.queries[0].shape[1], operands.keys[0].shape[1]
    index_T1, index_1S = jnp.arange(length)[:, None], jnp.arange(keys)[None, :]
    t_BT1, s_B1S = operands.positions_BT[:, :, None], operands.positions_BT[:, None, :]
    accumulate = jnp.promote_types(jnp.float32, operands.values_BSGK.dtype)

    logits_BGRTS: jax.Array | None = None
    inside_BTS = jnp.zeros((1, length, keys), bool)
    for branch, q_BTGRK, k_BSGK in zip(spec.position.branches, operands.queries, operands.keys, strict=True):
        product = jnp.einsum("BTGRK,BSGK->BGRTS", q_BTGRK, k_BSGK, preferred_element_type=accumulate)
        region_BTS = branch.region.contains(t_BT1, s_B1S)
        inside_BTS |= region_BTS
        logits_BGRTS = product if logits_BGRTS is None else jnp.where(region_BTS[:, None, None], product, logits_BGRTS)
    assert logits_BGRTS is not None  # a position has at least one branch

    seen_TS = jnp.stack([region.contains(index_T1, index_1S) for region in spec.visibility]).any(0)
    visible_BTS = inside_BTS & seen_TS[None]
    if operands.segment_ids_BT is not None:
        visible_BTS &= operands.segment_ids_BT[:, :, None] == operands.segment_ids_BT[:, None, :]

    masked_BGRTS = jnp.where(visible_BTS[:, None, None], logits_BGRTS * operands.logit_scale, MASKED)
    weights_BGRTS = jax.nn.softmax(masked_BGRTS, axis=-1).astype(operands.values_BSGK.dtype)
    out_BTGRK = jnp.einsum("BGRTS,BSGK->BTGRK", weights_BGRTS, operands.values_BSGK, preferred_element_type=accumulate)
    blind_BT111 = ~visible_BTS.any(-1)[:, :, None, None, None]  # its softmax, of MASKED alone, is uniform
    return jnp.where(blind_BT111, 0.0, out_BTGRK).astype(operands.values_BSGK.dtype)
