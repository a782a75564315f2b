"""The oracle: attention as its definition reads, with the whole [T, S] matrix in memory."""

import jax
import jax.numpy as jnp

from lmarch.attention.operands import Operands
from lmarch.attention.spec import AttentionSpec


def dense(operands: Operands, spec: AttentionSpec) -> jax.Array:
    """softmax(logits over visible keys) v, [B, T, G, R, K]; a query that sees nothing gets zeros."""
    length, keys = operands.queries[0].shape[1], operands.keys[0].shape[1]
    index_T1, index_1S = jnp.arange(length)[:, None], jnp.arange(keys)[None, :]
    t_BT1, s_B1S = operands.positions_BT[:, :, None], operands.positions_BT[:, None, :]
    accumulate = jnp.promote_types(jnp.float32, operands.values_BSGK.dtype)

    logits_BGRTS: jax.Array | float = 0.0
    inside_BTS = jnp.zeros((1, length, keys), bool)
    for branch, q_BTGRK, k_BSGK in zip(spec.position.branches, operands.queries, operands.keys, strict=True):
        product = jnp.einsum("BTGRK,BSGK->BGRTS", q_BTGRK, k_BSGK, preferred_element_type=accumulate)
        region_BTS = branch.region.contains(t_BT1, s_B1S)
        logits_BGRTS = jnp.where(region_BTS[:, None, None], product * operands.logit_scale, logits_BGRTS)
        inside_BTS |= region_BTS

    seen_TS = jnp.stack([region.contains(index_T1, index_1S) for region in spec.visibility]).any(0)
    visible_BTS = inside_BTS & seen_TS[None]
    if operands.segment_ids_BT is not None:
        visible_BTS &= operands.segment_ids_BT[:, :, None] == operands.segment_ids_BT[:, None, :]

    visible_B11TS = visible_BTS[:, None, None]
    weights_BGRTS = jax.nn.softmax(jnp.where(visible_B11TS, logits_BGRTS, -1e30), axis=-1)
    weights_BGRTS = jnp.where(visible_B11TS, weights_BGRTS, 0.0)  # a row of -1e30 alone would be uniform
    values_BSGK = operands.values_BSGK
    out_BTGRK = jnp.einsum(
        "BGRTS,BSGK->BTGRK", weights_BGRTS.astype(values_BSGK.dtype), values_BSGK, preferred_element_type=accumulate
    )
    return out_BTGRK.astype(values_BSGK.dtype)
