"""The oracle: attention as its definition reads, with the whole [T, S] matrix in memory."""

import jax
import jax.numpy as jnp

from lmarch.attention.operands import Operands
from lmarch.attention.places import pairs_of, visible_pairs
from lmarch.attention.spec import AttentionSpec

MASKED = -1e30  # finite, so that a row of it has no NaN; beside any visible logit its weight is exactly 0


def dense(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    """softmax(logits over visible keys) v, [B, T, G, R, K], and the logarithm of each softmax's denominator [B, T, G, R].

    A query that sees nothing gets zeros, and MASKED for the logarithm.
    """
    logits_BGRTS, visible_BTS = logits_and_visible(operands, spec)
    return softmax_over(logits_BGRTS, visible_BTS[:, None, None], operands.values_BGSK)


def logits_and_visible(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    """Of every pair its logit, [B, G, R, T, S], and whether it is attended to, [B or 1, T, S]."""
    pairs = pairs_of(operands.queries_at, operands.keys_at)
    accumulate = jnp.promote_types(jnp.float32, operands.values_BGSK.dtype)
    logits_BGRTS: jax.Array | None = None
    for branch, q_BTGRK, k_BGSK in zip(spec.branches, operands.queries, operands.keys, strict=True):
        product = jnp.einsum("BTGRK,BGSK->BGRTS", q_BTGRK, k_BGSK, preferred_element_type=accumulate)
        product *= spec.logit_scale
        if spec.position.bias is not None:
            bias = spec.position.bias(operands.bias, *branch.places(pairs))
            product += heads_in_groups(bias, product.shape[1]).astype(accumulate)
        if spec.softcap is not None:
            product = spec.softcap * jnp.tanh(product / spec.softcap)
        inside_BTS = branch.region.contains(pairs)
        logits_BGRTS = product if logits_BGRTS is None else jnp.where(inside_BTS[:, None, None], product, logits_BGRTS)
    assert logits_BGRTS is not None  # there is at least one branch

    return logits_BGRTS, visible_pairs(spec, pairs, operands.queries_at, operands.keys_at, operands.in_prefix_BS)


def softmax_over(
    logits_BGRTS: jax.Array, visible_BGRTS: jax.Array, values_BGSK: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What `dense` returns, of the logits of visible pairs; `visible` broadcasts to them."""
    masked_BGRTS = jnp.where(visible_BGRTS, logits_BGRTS, MASKED)
    seen_BGRT = visible_BGRTS.any(-1)
    log_normaliser_BGRT = jax.nn.logsumexp(masked_BGRTS, axis=-1)
    weights_BGRTS = jnp.exp(masked_BGRTS - log_normaliser_BGRT[..., None]).astype(values_BGSK.dtype)
    out_BGRTK = jnp.einsum("BGRTS,BGSK->BGRTK", weights_BGRTS, values_BGSK, preferred_element_type=logits_BGRTS.dtype)
    out_BGRTK = jnp.where(seen_BGRT[..., None], out_BGRTK, 0.0).astype(values_BGSK.dtype)
    log_normaliser_BGRT = jnp.where(seen_BGRT, log_normaliser_BGRT, MASKED)
    return jnp.moveaxis(out_BGRTK, 3, 1), jnp.moveaxis(log_normaliser_BGRT, 3, 1)


def heads_in_groups(bias_BHTS: jax.Array, groups: int) -> jax.Array:
    """[B or 1, H, T, S] -> [B or 1, G, R, T, S]."""
    batch, heads, *pairs = bias_BHTS.shape
    return bias_BHTS.reshape(batch, groups, heads // groups, *pairs)
