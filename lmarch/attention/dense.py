"""The oracle: attention as its definition reads, with the whole [T, S] matrix in memory."""

import jax
import jax.numpy as jnp

from lmarch.attention.operands import Operands, pairs_of
from lmarch.attention.spec import AttentionSpec

MASKED = -1e30  # finite, so that a row of it has no NaN; beside any visible logit its weight is exactly 0


def dense(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    """softmax(logits over visible keys) v, [B, T, G, R, K], and the logarithm of each softmax's denominator [B, T, G, R].

    A query that sees nothing gets zeros, and MASKED for the logarithm.
    """
    pairs = pairs_of(operands)
    accumulate = jnp.promote_types(jnp.float32, operands.values_BSGK.dtype)
    logits_BGRTS: jax.Array | None = None
    for branch, q_BTGRK, k_BSGK in zip(spec.branches, operands.queries, operands.keys, strict=True):
        product = jnp.einsum("BTGRK,BSGK->BGRTS", q_BTGRK, k_BSGK, preferred_element_type=accumulate)
        product *= spec.logit_scale
        if spec.position.bias is not None:
            bias = spec.position.bias(operands.bias, *branch.places(pairs))
            product += heads_in_groups(bias, product.shape[1]).astype(accumulate)
        if spec.softcap is not None:
            product = spec.softcap * jnp.tanh(product / spec.softcap)
        inside_BTS = branch.region.contains(pairs)
        logits_BGRTS = product if logits_BGRTS is None else jnp.where(inside_BTS[:, None, None], product, logits_BGRTS)
    assert logits_BGRTS is not None  # there is at least one branch

    in_prefix, at, keys_at = operands.in_prefix_BS, operands.queries_at, operands.keys_at
    visible_BTS = spec.visibility.contains(pairs, None if in_prefix is None else in_prefix[:, None, :])
    if at.documents is not None and keys_at.documents is not None:
        visible_BTS &= at.documents[:, :, None] == keys_at.documents[:, None, :]

    masked_BGRTS = jnp.where(visible_BTS[:, None, None], logits_BGRTS, MASKED)
    seen_BT = visible_BTS.any(-1)
    log_normaliser_BGRT = jax.nn.logsumexp(masked_BGRTS, axis=-1)
    weights_BGRTS = jnp.exp(masked_BGRTS - log_normaliser_BGRT[..., None]).astype(operands.values_BSGK.dtype)
    out_BTGRK = jnp.einsum("BGRTS,BSGK->BTGRK", weights_BGRTS, operands.values_BSGK, preferred_element_type=accumulate)
    out_BTGRK = jnp.where(seen_BT[:, :, None, None, None], out_BTGRK, 0.0).astype(operands.values_BSGK.dtype)
    log_normaliser_BTGR = jnp.moveaxis(log_normaliser_BGRT, -1, 1)
    return out_BTGRK, jnp.where(seen_BT[:, :, None, None], log_normaliser_BTGR, MASKED)


def heads_in_groups(bias_BHTS: jax.Array, groups: int) -> jax.Array:
    """[B or 1, H, T, S] -> [B or 1, G, R, T, S]."""
    batch, heads, *pairs = bias_BHTS.shape
    return bias_BHTS.reshape(batch, groups, heads // groups, *pairs)
