"""The oracle: attention as its definition reads, with the whole [T, S] matrix in memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import pairs_of, visible_pairs
from lmarch.attention.operands import Operands, Rotated, heads_first, rotated
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Branch, Pairs
from lmarch.content import Features

MASKED = -1e30  # finite, so that a row of it has no NaN; beside any visible logit its weight is exactly 0


class Scores(NamedTuple):
    """Of every pair its logit, and whether it is attended to."""

    logits_BGRTS: jax.Array
    visible_BTS: jax.Array  # [B or 1, T, S]


def dense(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    """Compute softmax(logits over visible keys) v.

    Returns:
      [B, T, H, V], and the logarithm of each softmax's denominator [B, T, H]. A query that sees nothing gets zeros, and
      MASKED for the logarithm.
    """
    all_pairs = scores(rotated(operands, spec), operands, spec)
    return softmax_over(all_pairs.logits_BGRTS, all_pairs.visible_BTS[:, None, None], operands.v_BGSV)


def scores(both: Rotated, operands: Operands, spec: AttentionSpec) -> Scores:
    """Compute the logits of rotated queries and keys; in each region those of its branch."""
    pairs = pairs_of(operands.queries_at, operands.keys_at)
    visible_BTS = visible_pairs(spec, pairs, operands.queries_at, operands.keys_at)
    accumulate = jnp.promote_types(jnp.float32, operands.v_BGSV.dtype)
    features = operands.features.get("bias")
    features = features and Features(*(heads_first(x) for x in features))
    logits_BGRTS: jax.Array | None = None
    for branch, q_BTGRK, k_BGSK in zip(spec.branches, both.queries, both.keys, strict=True):
        product = jnp.einsum("BTGRK,BGSK->BGRTS", q_BTGRK, k_BGSK, preferred_element_type=accumulate)
        product *= spec.logit_scale
        inside_BTS = branch.region.contains(pairs)
        if spec.softcap is not None:
            # What nobody sees may overflow (a key after its query under xPos), and tanh has no gradient at infinity.
            product = jnp.where((inside_BTS & visible_BTS)[:, None, None], product, 0.0)
        if spec.position.bias is not None:
            product += pair_bias(spec, branch, pairs, operands.learned, features, product.shape[1])
        if spec.softcap is not None:
            product = spec.softcap * jnp.tanh(product / spec.softcap)
        logits_BGRTS = product if logits_BGRTS is None else jnp.where(inside_BTS[:, None, None], product, logits_BGRTS)
    assert logits_BGRTS is not None  # there is at least one branch
    return Scores(logits_BGRTS, visible_BTS)


def pair_bias(
    spec: AttentionSpec,
    branch: Branch,
    pairs: Pairs,
    learned: dict[str, jax.Array],
    features: Features | None,
    groups: int,
) -> jax.Array:
    """Compute the bias of pairs in a branch, float32 [B or 1, G, R, T, S].

    Args:
      features: that the bias reads, heads first: [B, H, T, f] and [B, H, S, g].
    """
    bias = spec.position.bias
    assert bias is not None
    bias_BHTS: jax.Array = bias(learned, *branch.places(pairs), features)
    batch, heads, *sizes = bias_BHTS.shape
    return bias_BHTS.reshape(batch, groups, heads // groups, *sizes)


def softmax_over(logits_BGRTS: jax.Array, visible_BGRTS: jax.Array, v_BGSV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return what `dense` does, of the logits of visible pairs; `visible` broadcasts to them."""
    masked_BGRTS = jnp.where(visible_BGRTS, logits_BGRTS, MASKED)
    seen_BGRT = visible_BGRTS.any(-1)
    log_normaliser_BGRT = jax.nn.logsumexp(masked_BGRTS, axis=-1)
    weights_BGRTS = jnp.exp(masked_BGRTS - log_normaliser_BGRT[..., None]).astype(v_BGSV.dtype)
    out_BGRTV = jnp.einsum("BGRTS,BGSV->BGRTV", weights_BGRTS, v_BGSV, preferred_element_type=logits_BGRTS.dtype)
    out_BGRTV = jnp.where(seen_BGRT[..., None], out_BGRTV, 0.0).astype(v_BGSV.dtype)
    log_normaliser_BGRT = jnp.where(seen_BGRT, log_normaliser_BGRT, MASKED)
    return heads_last(out_BGRTV), heads_last(log_normaliser_BGRT)


def heads_last(x_BGRT: jax.Array) -> jax.Array:
    """[B, G, R, T, ...] -> [B, T, H, ...]."""
    x_BTGR = jnp.moveaxis(x_BGRT, 3, 1)
    return x_BTGR.reshape(*x_BTGR.shape[:2], -1, *x_BTGR.shape[4:])
