"""Attention whose rotation follows the text's length token by token: every query turns all its keys for the text so far.

`dynamic_ntk` and `longrope` have frequencies for each length of the text. In their *stepwise* form row t is what a decoder
computes that has seen t + 1 tokens and turns its cache for them, so rows do not depend on what follows. It takes a rotation
of all keys a query, and is the definition that caches are held to.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lmarch.attention.dense import dense
from lmarch.attention.operands import Prefixes, Where, beside_keys, turn_keys
from lmarch.attention.places import length_so_far
from lmarch.attention.spec import AttentionSpec


def stepwise(
    q_BTHK: jax.Array,
    k_BGSK: jax.Array,
    values_BGSK: jax.Array,
    spec: AttentionSpec,
    where: Where,
    prefixes: Prefixes,
    learned: Mapping[str, jax.Array] | None,
) -> tuple[jax.Array, jax.Array]:
    """As `dense`, of keys that are not turned yet."""
    queries_at, keys_at, placed = where
    prefix_BT, prefix_BS = prefixes
    length = q_BTHK.shape[1]
    spans_BT = length_so_far(spec, queries_at, keys_at, prefix_BT, prefix_BS)
    of_queries = {"q": q_BTHK, "spans": spans_BT, "at": queries_at._replace(spans=None), "prefix": prefix_BT}

    def by_token(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(jnp.broadcast_to(x, (x.shape[0], length, *x.shape[2:])), 1, 0)

    @jax.checkpoint
    def query(one: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        one = jax.tree.map(lambda x: x[:, None], one)
        at, there = one["at"]._replace(spans=one["spans"]), keys_at._replace(spans=one["spans"])
        copies = turn_keys(k_BGSK, spec, there, placed=placed)
        prefixes = one["prefix"], prefix_BS
        operands = beside_keys(one["q"], copies, values_BGSK, spec, Where(at, there, placed), prefixes, learned)
        out_B1GRK, log_normaliser_B1GR = dense(operands, spec)
        return out_B1GRK[:, 0], log_normaliser_B1GR[:, 0]

    out_TBGRK, log_normaliser_TBGR = lax.map(query, jax.tree.map(by_token, of_queries))
    return jnp.moveaxis(out_TBGRK, 0, 1), jnp.moveaxis(log_normaliser_TBGR, 0, 1)
