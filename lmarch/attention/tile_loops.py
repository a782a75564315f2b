"""The loops over tiles: online softmax forward, recomputation backward (FlashAttention, Dao et al. 2022).

Read `forward` first, for a layer of one branch: then `_with_logits` is `update(_logits(...), carry)`. Branches add to it only
which products a tile takes (`_with_logits`), and a bias what it adds to them (`_bias`).

Shapes: N tiles of C queries [N, B, G, R, C, K], M tiles of C keys [M, B, G, C, K] and values [M, B, G, C, V].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lmarch.attention.coordinates import Coordinates, pairs_of, visible_pairs
from lmarch.attention.dense import MASKED, pair_bias
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import TilePlan
from lmarch.branches import Pairs
from lmarch.content import Features

Learned = dict[str, jax.Array]


class Tiles(NamedTuple):
    """What the loops read, of some rows."""

    queries: tuple[jax.Array, ...]  # for each branch
    keys: tuple[jax.Array, ...]
    values: jax.Array
    features: Features | None  # [N, B, H, C, f] and [M, B, H, C, f]
    learned: Learned
    plan: TilePlan


class Gradients(NamedTuple):
    """Of `Tiles`, float32."""

    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    values: jax.Array
    features: Features | None
    learned: Learned


def forward(spec: AttentionSpec, tiles: Tiles) -> tuple[jax.Array, jax.Array]:
    """Return outputs [N, B, G, R, C, V] and log-normalisers [N, B, G, R, C]."""
    accumulate = jnp.promote_types(jnp.float32, tiles.values.dtype)
    shape = (*tiles.queries[0].shape[1:-1], tiles.values.shape[-1])  # [B, G, R, C, V]

    def query_tile(n: jax.Array) -> tuple[jax.Array, jax.Array]:
        def visit(i: jax.Array, carry: tuple) -> tuple:
            m = tiles.plan.order_ZNM[0, n, i]

            def update(logits: jax.Array, carry: tuple) -> tuple:
                peak, total, weighted = carry
                visible = _visible(spec, tiles, n, m)
                logits = jnp.where(visible, logits, MASKED)
                new_peak = jnp.maximum(peak, logits.max(-1))
                weights = jnp.where(visible, jnp.exp(logits - new_peak[..., None]), 0.0)
                shrink = jnp.exp(peak - new_peak)
                gathered = _dot("BGRCS,BGSV->BGRCV", weights.astype(tiles.values.dtype), tiles.values[m])
                return new_peak, total * shrink + weights.sum(-1), weighted * shrink[..., None] + gathered

            return _with_logits(spec, tiles, n, m, update, carry)

        start = (
            jnp.full(shape[:-1], MASKED, accumulate),
            jnp.zeros(shape[:-1], accumulate),
            jnp.zeros(shape, accumulate),
        )
        peak, total, weighted = lax.fori_loop(0, tiles.plan.count_ZN[0, n], visit, start)
        seen = total > 0  # a query that sees nothing gets zeros
        total = jnp.where(seen, total, 1.0)
        return (weighted / total[..., None]).astype(tiles.values.dtype), peak + jnp.log(total)

    return lax.map(query_tile, jnp.arange(tiles.queries[0].shape[0]))


def backward(
    spec: AttentionSpec,
    tiles: Tiles,
    out: jax.Array,
    log_normaliser: jax.Array,
    d_out: jax.Array,
    d_log_normaliser: jax.Array,
) -> Gradients:
    """Return the gradients of rows; the last four arguments in tiles of queries, [N, B, G, R, C, V] and [N, B, G, R, C]."""
    accumulate = log_normaliser.dtype
    cap = spec.softcap

    def query_tile(of_keys: tuple, n: jax.Array) -> tuple:
        # The gradient of a softmax row is weights * (d_weights - sum(weights * d_weights)), and its denominator's
        # logarithm has the weights themselves.
        row_sum = (d_out[n].astype(accumulate) * out[n]).sum(-1) - d_log_normaliser[n]

        def visit(i: jax.Array, carry: tuple) -> tuple:
            of_queries, of_keys = carry
            d_queries, d_query_features = of_queries
            d_keys, d_values, d_key_features, d_learned = of_keys
            m = tiles.plan.order_ZNM[0, n, i]
            visible = _visible(spec, tiles, n, m)

            def weigh(logits: jax.Array, log_normaliser: jax.Array) -> tuple[jax.Array, Any]:
                weights = jnp.exp(jnp.where(visible, logits, MASKED) - log_normaliser[..., None])
                # c tanh(x / c) has the slope 1 - tanh^2.
                return jnp.where(visible, weights, 0.0), None if cap is None else 1 - (logits / cap) ** 2

            weights, slope = _with_logits(spec, tiles, n, m, weigh, log_normaliser[n])
            d_values = d_values.at[m].add(_dot("BGRCS,BGRCV->BGSV", weights.astype(d_out.dtype), d_out[n]))
            d_weights = _dot("BGRCV,BGSV->BGRCS", d_out[n], tiles.values[m])
            d_logits = weights * (d_weights - row_sum[..., None])
            d_logits = d_logits if slope is None else d_logits * slope
            new_queries, new_keys = [], []
            for b in range(len(spec.branches)):
                q, k = tiles.queries[b], tiles.keys[b]

                def add(gradients: tuple, q: Any = q, k: Any = k, b: int = b) -> tuple:
                    d_q, d_k, d_bias = gradients
                    d_inside = d_logits
                    if len(spec.branches) > 1:
                        d_inside = jnp.where(_inside(spec, tiles, b, n, m), d_logits, 0.0)
                    scaled = (d_inside * spec.logit_scale).astype(q.dtype)
                    d_k = d_k.at[m].add(_dot("BGRCS,BGRCK->BGSK", scaled, q[n]))
                    d_q = d_q + _dot("BGRCS,BGSK->BGRCK", scaled, k[m])
                    return d_q, d_k, _add_bias_gradient(spec, tiles, b, n, m, d_inside, d_bias)

                gradients = (d_queries[b], d_keys[b], (d_learned, d_query_features, d_key_features))
                if len(spec.branches) == 1:
                    gradients = add(gradients)
                else:
                    present = tiles.plan.present_ZNMb[0, n, m, b]
                    gradients = lax.cond(present, add, lambda gradients: gradients, gradients)
                d_q, d_k, (d_learned, d_query_features, d_key_features) = gradients
                new_queries.append(d_q)
                new_keys.append(d_k)
            of_queries = (tuple(new_queries), d_query_features)
            return of_queries, (tuple(new_keys), d_values, d_key_features, d_learned)

        read_once = (tiles.queries, tiles.features.queries if tiles.features else None)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], accumulate), read_once)
        of_queries, of_keys = lax.fori_loop(0, tiles.plan.count_ZN[0, n], visit, (zeros, of_keys))
        return of_keys, of_queries

    read_often = (tiles.keys, tiles.values, tiles.features.keys if tiles.features else None, tiles.learned)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, accumulate), read_often)
    everything: Any = lax.scan(query_tile, zeros, jnp.arange(tiles.queries[0].shape[0]))
    (d_keys, d_values, d_key_features, d_learned), (d_queries, d_query_features) = everything
    d_features = None if tiles.features is None else Features(d_query_features, d_key_features)
    return Gradients(d_queries, d_keys, d_values, d_features, d_learned)


def _with_logits(spec: AttentionSpec, tiles: Tiles, n: Any, m: Any, update: Callable, carry: Any) -> Any:
    """Return `update(logits, carry)`; the logits, [B, G, R, C, C], are for every pair those of the branch that it lies in.

    A tile whose visible pairs all lie in one branch takes one product; only one that a border crosses takes several. The whole
    update is inside the choice between them, because what leaves a choice is copied: the carry is small, logits are not.
    """
    branches = spec.branches
    if len(branches) == 1:
        return update(_logits(spec, tiles, 0, n, m), carry)

    def several(carry: Any) -> Any:
        logits = _logits(spec, tiles, 0, n, m)
        for b in range(1, len(branches)):

            def overlay(logits: jax.Array, b: int = b) -> jax.Array:
                return jnp.where(_inside(spec, tiles, b, n, m), _logits(spec, tiles, b, n, m), logits)

            present = tiles.plan.present_ZNMb[0, n, m, b]
            logits = lax.cond(present, overlay, lambda logits: logits, logits)
        return update(logits, carry)

    single = [lambda carry, b=b: update(_logits(spec, tiles, b, n, m), carry) for b in range(len(branches))]
    return lax.switch(tiles.plan.branch_ZNM[0, n, m], [*single, several], carry)


def _logits(spec: AttentionSpec, tiles: Tiles, b: int, n: Any, m: Any) -> jax.Array:
    """Return those of branch b for all pairs of a tile, [B, G, R, C, C]."""
    logits = _dot("BGRCK,BGSK->BGRCS", tiles.queries[b][n], tiles.keys[b][m]) * spec.logit_scale
    if spec.position.bias is not None:
        logits += _bias(spec, tiles, b, n, m)(*_read_by_bias(tiles, n, m)).astype(logits.dtype)
    return logits if spec.softcap is None else spec.softcap * jnp.tanh(logits / spec.softcap)


def _read_by_bias(tiles: Tiles, n: Any, m: Any) -> tuple[Learned, Any, Any]:
    if tiles.features is None:
        return tiles.learned, None, None
    return tiles.learned, tiles.features.queries[n], tiles.features.keys[m]


def _bias(spec: AttentionSpec, tiles: Tiles, b: int, n: Any, m: Any) -> Callable[..., jax.Array]:
    """Return the bias of a tile as a function of what was learned and of the features of its tokens."""
    branch, groups, pairs = spec.branches[b], tiles.values.shape[2], _pairs(tiles, n, m)

    def bias(learned: Learned, query_features: Any, key_features: Any) -> jax.Array:
        features = None if query_features is None else Features(query_features, key_features)
        return pair_bias(spec, branch, pairs, learned, features, groups)

    return bias


def _add_bias_gradient(
    spec: AttentionSpec, tiles: Tiles, b: int, n: Any, m: Any, d_logits: jax.Array, d_bias: tuple
) -> tuple:
    """Add what a tile's logits say to the gradients of what was learned, of query features and of key features."""
    d_learned, d_query_features, d_key_features = d_bias
    if spec.position.bias is None or not (d_learned or d_key_features is not None):
        return d_bias
    bias, pull_back = jax.vjp(_bias(spec, tiles, b, n, m), *_read_by_bias(tiles, n, m))
    if bias.shape[0] < d_logits.shape[0]:
        d_logits = d_logits.sum(0, keepdims=True)
    of_learned, of_query, of_key = pull_back(d_logits.astype(bias.dtype))
    d_learned = jax.tree.map(lambda total, g: total + g.astype(total.dtype), d_learned, of_learned)
    if d_key_features is not None:
        d_query_features = d_query_features + of_query
        d_key_features = d_key_features.at[m].add(of_key)
    return d_learned, d_query_features, d_key_features


def _dot(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.promote_types(jnp.float32, a.dtype))


def _tile_coordinates(tiles: Tiles, n: Any, m: Any) -> tuple[Coordinates, Coordinates]:
    """Return those of one tile of queries and of one of keys, [B or 1, C]."""
    queries_at: Coordinates = jax.tree.map(lambda x: x[:, n], tiles.plan.queries)
    keys_at: Coordinates = jax.tree.map(lambda x: x[:, m], tiles.plan.keys)
    return queries_at, keys_at


def _pairs(tiles: Tiles, n: Any, m: Any) -> Pairs:
    return pairs_of(*_tile_coordinates(tiles, n, m))


def _inside(spec: AttentionSpec, tiles: Tiles, b: int, n: Any, m: Any) -> jax.Array:
    """Return which pairs of a tile lie in branch b, [B or 1, 1, 1, C, C]."""
    inside: jax.Array = spec.branches[b].region.contains(_pairs(tiles, n, m))[:, None, None]
    return inside


def _visible(spec: AttentionSpec, tiles: Tiles, n: Any, m: Any) -> jax.Array:
    """Return which pairs of a tile are attended to, [B or 1, 1, 1, C, C]."""
    at = _tile_coordinates(tiles, n, m)
    return visible_pairs(spec, pairs_of(*at), *at)[:, None, None]
