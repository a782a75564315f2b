"""Attention whose rotation follows the text's length token by token: every query turns all its keys for the text so far.

`dynamic_ntk` and `longrope` have frequencies for each length of the text. In their *stepwise* form row t is what a decoder
computes that has seen t + 1 tokens and turns its cache for them, so rows do not depend on what follows. It takes a rotation
of all keys a query, and is the definition that caches are held to.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lmarch.attention.coordinates import length_so_far
from lmarch.attention.dense import dense
from lmarch.attention.operands import Operands, make_operands
from lmarch.attention.spec import AttentionSpec


def stepwise(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    """Return what `dense` does, of keys that are not rotated yet; see `Operands`."""
    queries_at, keys_at, length = operands.queries_at, operands.keys_at, operands.q_BTHK.shape[1]
    of_queries = {
        "q": operands.q_BTHK,
        "spans": length_so_far(spec, queries_at, keys_at),
        "at": queries_at._replace(spans=None),
        "features": {name: one.queries for name, one in operands.features.items()},
    }
    assert spec.position.rotation is not None
    whole_text = dataclasses.replace(spec.position.rotation, stepwise=False)  # a query's own text is whole by now
    one_length = dataclasses.replace(spec, position=dataclasses.replace(spec.position, rotation=whole_text))

    def by_token(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(jnp.broadcast_to(x, (x.shape[0], length, *x.shape[2:])), 1, 0)

    @jax.checkpoint
    def query(one: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        one = jax.tree.map(lambda x: x[:, None], one)
        at, there = one["at"]._replace(spans=one["spans"]), keys_at._replace(spans=one["spans"])
        own = make_operands(
            one["q"],
            operands.keys,
            operands.v_BGSV,
            one_length,
            at,
            there,
            learned=operands.learned,
            features={name: f._replace(queries=one["features"][name]) for name, f in operands.features.items()},
        )
        out_B1HV, log_normaliser_B1H = dense(own, one_length)
        return out_B1HV[:, 0], log_normaliser_B1H[:, 0]

    out_TBHV, log_normaliser_TBH = lax.map(query, jax.tree.map(by_token, of_queries))
    return jnp.moveaxis(out_TBHV, 0, 1), jnp.moveaxis(log_normaliser_TBH, 0, 1)
