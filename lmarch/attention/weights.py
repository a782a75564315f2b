"""Attention weights themselves, for looking at a trained model; nothing that trains or evaluates makes them."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import Coordinates, text_coordinates
from lmarch.attention.dense import MASKED, scores
from lmarch.attention.operands import heads_first, make_operands, rotated
from lmarch.attention.spec import AttentionSpec
from lmarch.content import Features
from lmarch.errors import UserError


class Weights(NamedTuple):
    """Of whole texts; B rows, H heads, T queries, S = T keys."""

    weights_BHTS: jax.Array  # float32; rows sum to 1, or to less where a learned sink takes its share
    logits_BHTS: jax.Array  # MASKED where the key is not visible


def attention_weights(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    spec: AttentionSpec,
    learned: Mapping[str, jax.Array] | None = None,
    features: Mapping[str, Features] | None = None,
    at: Coordinates | None = None,
) -> Weights:
    """Compute what `attend` multiplies values by, of self-attention.

    Args:
      at: where the tokens are; default: texts that start at position 0.

    Raises:
      UserError: a selection, or a stepwise rotation, whose weights are no softmax over one matrix.
    """
    if spec.selection is not None or spec.stepwise:
        what = "a stepwise rotation" if spec.stepwise else "a selection"
        raise UserError(f"{spec.position.method} with {what} has no one matrix of attention weights to look at")
    length = q_BTHK.shape[1]
    at = text_coordinates(length, layout=spec.visibility.layout) if at is None else at
    keys = heads_first(k_BSGK)
    operands = make_operands(q_BTHK, (keys,), keys, spec, at, at, learned=learned, features=features)
    logits_BGRTS, visible_BTS = scores(rotated(operands, spec), operands, spec)
    logits_BHTS = jnp.where(visible_BTS[:, None, None], logits_BGRTS, MASKED).reshape(
        len(q_BTHK), spec.num_heads, length, length
    )
    log_normaliser_BHT = jax.nn.logsumexp(logits_BHTS, axis=-1)
    if spec.sink:
        log_normaliser_BHT = jnp.logaddexp(log_normaliser_BHT, (learned or {})["sink_logit"][None, :, None])
    return Weights(jnp.exp(logits_BHTS - log_normaliser_BHT[..., None]), logits_BHTS)
