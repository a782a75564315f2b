"""Attention weights themselves, for looking at a trained model; nothing that trains or evaluates makes them."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.attend import keep_keys
from lmarch.attention.dense import MASKED, logits_and_visible
from lmarch.attention.operands import beside_keys, heads_first, places_of_texts
from lmarch.attention.spec import AttentionSpec
from lmarch.errors import UserError


class Weights(NamedTuple):
    """Of whole texts; B rows, H heads, T queries, S = T keys."""

    weights_BHTS: jax.Array  # float32; rows sum to 1, or to less where a learned sink takes its share
    logits_BHTS: jax.Array  # MASKED where the key is not visible


def attention_weights(
    q_BTHK: jax.Array, k_BSGK: jax.Array, spec: AttentionSpec, learned: Mapping[str, jax.Array] | None = None
) -> Weights:
    """What `attend` multiplies values by, of self-attention of texts that start at position 0.

    Raises:
      UserError: a selection, or a stepwise rotation, whose weights are no softmax over one matrix.
    """
    if spec.selection is not None or spec.stepwise:
        what = "a stepwise rotation" if spec.stepwise else "a selection"
        raise UserError(f"{spec.position.method} with {what} has no one matrix of attention weights to look at")
    length = q_BTHK.shape[1]
    where = places_of_texts((length, length), spec, None, None, None, None, None)
    kept = keep_keys(heads_first(k_BSGK), spec, where.keys_at, placed=where.placed)
    operands = beside_keys(q_BTHK, kept, heads_first(k_BSGK), spec, where, (None, None), learned)
    logits_BGRTS, visible_BTS = logits_and_visible(operands, spec)
    logits_BHTS = jnp.where(visible_BTS[:, None, None], logits_BGRTS, MASKED).reshape(
        len(q_BTHK), spec.num_heads, length, length
    )
    log_normaliser_BHT = jax.nn.logsumexp(logits_BHTS, axis=-1)
    if spec.sink:
        log_normaliser_BHT = jnp.logaddexp(log_normaliser_BHT, (learned or {})["sink_logit"][None, :, None])
    return Weights(jnp.exp(logits_BHTS - log_normaliser_BHT[..., None]), logits_BHTS)
