"""The same attention in O(T) memory: tiles of queries against only those tiles of keys that hold a visible pair.

Online softmax forward and recomputation backward (FlashAttention, Dao et al. 2022), generalised to branches: a tile costs one
product for each branch that is *present* in it (`tile_plan.py`). Queries and keys come unrotated and are rotated here, forward
and backward, so that a layer keeps none of the rotated copies for its backward pass.

On a CPU, rows with coordinates of their own are computed one after the other, so that none visits tiles for another; elsewhere
all rows of a batch visit the same tiles.

Shapes: N tiles of C queries [N, B, G, R, C, K] and M tiles of C keys [M, B, G, C, K] and values [M, B, G, C, V].
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lmarch.attention.coordinates import Coordinates, pairs_of, visible_pairs
from lmarch.attention.dense import MASKED, pair_bias
from lmarch.attention.operands import Operands, Rotated, heads_first, rotated
from lmarch.attention.precision import carried_precision
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tile_plan import TilePlan, make_plan
from lmarch.attention.tiles import TILE, in_tiles, whole
from lmarch.branches import Pairs
from lmarch.positions.content import Features


def tiled(operands: Operands, spec: AttentionSpec, tile: int = TILE) -> tuple[jax.Array, jax.Array]:
    """Return what `dense` does, for any length; differentiable in all of floating point that `Operands` holds but waves."""
    at = operands.queries_at, operands.keys_at
    tile = min(tile, max(operands.q_BTHK.shape[1], operands.v_BGSV.shape[2]))
    rows_differ = any(len(x) > 1 for x in jax.tree.leaves([side._replace(spans=None) for side in at]))
    by_row = rows_differ and jax.default_backend() == "cpu" and jax.local_device_count() == 1
    inputs = _Inputs(
        q_BTHK=operands.q_BTHK,
        keys=operands.keys,
        v_BGSV=operands.v_BGSV,
        temperature=operands.temperature,
        features=operands.features.get("bias"),
    )
    rest = operands._replace(**dict.fromkeys(_Inputs._fields), learned={})
    plan = make_plan(spec, *at, tile, by_row=by_row)
    return _attention(_Static(spec, tile, by_row, carried_precision()), inputs, operands.learned, (rest, plan))


class _Static(NamedTuple):
    spec: AttentionSpec
    tile: int
    by_row: bool  # rows are computed one after the other
    precision: str | None


class _Inputs(NamedTuple):
    """What of the operands has a gradient for each row, [B, ...] each."""

    q_BTHK: jax.Array
    keys: tuple[jax.Array, ...]
    v_BGSV: jax.Array
    temperature: jax.Array | None
    features: Features | None  # of the bias


_Learned = dict[str, jax.Array]
_Fixed = tuple[Operands, TilePlan]  # waves and coordinates; the rest of the operands is left out


class _Tiles(NamedTuple):
    """What the loops read, of some rows."""

    queries: tuple[jax.Array, ...]  # for each branch
    keys: tuple[jax.Array, ...]
    values: jax.Array
    features: Features | None  # [N, B, H, C, f] and [M, B, H, C, f]
    learned: _Learned
    plan: TilePlan


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: _Static, inputs: _Inputs, learned: _Learned, fixed: _Fixed) -> tuple[jax.Array, jax.Array]:
    return _forward(static, inputs, learned, fixed)[0]


def _forward(static: _Static, inputs: _Inputs, learned: _Learned, fixed: _Fixed) -> tuple[tuple, tuple]:
    def rows(inputs: _Inputs, fixed: _Fixed) -> tuple[jax.Array, jax.Array]:
        tiles = _in_tiles(static, inputs, learned, fixed, _rotated(static, inputs, fixed))
        return _forward_rows(static, tiles, inputs.q_BTHK.shape[1])

    # Their names let a policy of rematerialisation keep them, so that it does not run the loop again (models/stack.py).
    out, log_normaliser = (checkpoint_name(x, "attention") for x in _over_rows(static, rows, (inputs, fixed)))
    return (out, log_normaliser), (inputs, learned, fixed, out, log_normaliser)


def _backward(static: _Static, saved: tuple, cotangents: tuple[jax.Array, jax.Array]) -> tuple:
    inputs, learned, fixed, out, log_normaliser = saved

    def rows(inputs: _Inputs, fixed: _Fixed, *of_queries: jax.Array) -> tuple[_Inputs, _Learned]:
        def rotate(q_BTHK: jax.Array, keys: tuple[jax.Array, ...], temperature: jax.Array | None) -> Rotated:
            return _rotated(static, inputs._replace(q_BTHK=q_BTHK, keys=keys, temperature=temperature), fixed)

        both, rotate_back = jax.vjp(rotate, inputs.q_BTHK, inputs.keys, inputs.temperature)
        tiles = _in_tiles(static, inputs, learned, fixed, both)
        gradients = _backward_rows(static, tiles, *(_out_in_tiles(static, tiles, x) for x in of_queries))
        length, keys = inputs.q_BTHK.shape[1], inputs.v_BGSV.shape[2]
        d_both = Rotated(
            tuple(whole(g.transpose(0, 1, 4, 2, 3, 5), length) for g in gradients.queries),
            tuple(_keys_from_tiles(g, keys) for g in gradients.keys),
        )
        d_q, d_keys, d_temperature = rotate_back(jax.tree.map(lambda g, x: g.astype(x.dtype), d_both, both))
        d_features = None
        if gradients.features is not None:
            of_tokens = [x.swapaxes(2, 3) for x in gradients.features]
            d_features = Features(*(whole(x, n) for x, n in zip(of_tokens, (length, keys), strict=True)))
        d_inputs = _Inputs(
            q_BTHK=d_q,
            keys=d_keys,
            v_BGSV=_keys_from_tiles(gradients.values, keys).astype(inputs.v_BGSV.dtype),
            temperature=d_temperature,
            features=d_features,
        )
        return d_inputs, jax.tree.map(lambda g: g[None], gradients.learned)

    with jax.default_matmul_precision(static.precision):
        everything = (inputs, fixed, out, log_normaliser, *cotangents)
        d_inputs, d_learned = _over_rows(static, rows, everything)
    # What all rows share has the sum of their gradients.
    d_inputs = jax.tree.map(lambda g, x: g if len(g) == len(x) else g.sum(0, keepdims=True), d_inputs, inputs)
    d_learned = jax.tree.map(lambda g, x: g.sum(0).astype(x.dtype), d_learned, learned)
    return d_inputs, d_learned, None


_attention.defvjp(_forward, _backward)


def _over_rows(static: _Static, rows: Callable, arrays: Any) -> Any:
    """Return `rows(*arrays)`, of all rows together or of one after the other; an array that leads with 1 is every row's."""
    if not static.by_row:
        return rows(*arrays)

    def one(number: jax.Array) -> Any:
        return rows(*jax.tree.map(lambda x: x if len(x) == 1 else lax.dynamic_slice_in_dim(x, number, 1), arrays))

    of_each = lax.map(one, jnp.arange(len(arrays[0].q_BTHK)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), of_each)


def _rotated(static: _Static, inputs: _Inputs, fixed: _Fixed) -> Rotated:
    return rotated(fixed[0]._replace(**{**inputs._asdict(), "features": {}}), static.spec)


def _in_tiles(static: _Static, inputs: _Inputs, learned: _Learned, fixed: _Fixed, both: Rotated) -> _Tiles:
    features = None
    if inputs.features is not None:
        features = Features(*(in_tiles(x, static.tile).swapaxes(2, 3) for x in inputs.features))
    return _Tiles(
        queries=tuple(in_tiles(q, static.tile).transpose(0, 1, 3, 4, 2, 5) for q in both.queries),
        keys=tuple(in_tiles(k, static.tile, axis=2) for k in both.keys),
        values=in_tiles(inputs.v_BGSV, static.tile, axis=2),
        features=features,
        learned=learned,
        plan=fixed[1],
    )


def _forward_rows(static: _Static, tiles: _Tiles, length: int) -> tuple[jax.Array, jax.Array]:
    """Return outputs [B, T, H, V] and log-normalisers [B, T, H]."""
    accumulate = jnp.promote_types(jnp.float32, tiles.values.dtype)
    shape = (*tiles.queries[0].shape[1:-1], tiles.values.shape[-1])  # [B, G, R, C, V]

    def query_tile(n: jax.Array) -> tuple[jax.Array, jax.Array]:
        def visit(i: jax.Array, carry: tuple) -> tuple:
            m = tiles.plan.order_ZNM[0, n, i]

            def update(logits: jax.Array, carry: tuple) -> tuple:
                peak, total, weighted = carry
                visible = _visible(static, tiles, n, m)
                logits = jnp.where(visible, logits, MASKED)
                new_peak = jnp.maximum(peak, logits.max(-1))
                weights = jnp.where(visible, jnp.exp(logits - new_peak[..., None]), 0.0)
                shrink = jnp.exp(peak - new_peak)
                gathered = _dot("BGRCS,BGSV->BGRCV", weights.astype(tiles.values.dtype), tiles.values[m])
                return new_peak, total * shrink + weights.sum(-1), weighted * shrink[..., None] + gathered

            return _with_logits(static, tiles, n, m, update, carry)

        start = (jnp.full(shape[:-1], MASKED, accumulate), jnp.zeros(shape[:-1], accumulate))
        start = (*start, jnp.zeros(shape, accumulate))
        peak, total, weighted = lax.fori_loop(0, tiles.plan.count_ZN[0, n], visit, start)
        seen = total > 0  # a query that sees nothing gets zeros
        total = jnp.where(seen, total, 1.0)
        return (weighted / total[..., None]).astype(tiles.values.dtype), peak + jnp.log(total)

    out, log_normaliser = lax.map(query_tile, jnp.arange(tiles.queries[0].shape[0]))
    return _from_tiles(out, length), _from_tiles(log_normaliser, length)


class _Gradients(NamedTuple):
    """Of `_Tiles`, float32."""

    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    values: jax.Array
    features: Features | None
    learned: _Learned


def _backward_rows(
    static: _Static,
    tiles: _Tiles,
    out: jax.Array,
    log_normaliser: jax.Array,
    d_out: jax.Array,
    d_log_normaliser: jax.Array,
) -> _Gradients:
    """Return the gradients of rows; the last four arguments in tiles of queries, [N, B, G, R, C, V] and [N, B, G, R, C]."""
    accumulate = log_normaliser.dtype
    cap = static.spec.softcap

    def query_tile(of_keys: tuple, n: jax.Array) -> tuple:
        # The gradient of a softmax row is weights * (d_weights - sum(weights * d_weights)), and its denominator's
        # logarithm has the weights themselves.
        row_sum = (d_out[n].astype(accumulate) * out[n]).sum(-1) - d_log_normaliser[n]

        def visit(i: jax.Array, carry: tuple) -> tuple:
            of_queries, (d_keys, d_values, d_key_features, d_learned) = carry
            d_queries, d_query_features = of_queries
            m = tiles.plan.order_ZNM[0, n, i]
            visible = _visible(static, tiles, n, m)

            def weigh(logits: jax.Array, log_normaliser: jax.Array) -> tuple[jax.Array, Any]:
                weights = jnp.exp(jnp.where(visible, logits, MASKED) - log_normaliser[..., None])
                # c tanh(x / c) has the slope 1 - tanh^2.
                return jnp.where(visible, weights, 0.0), None if cap is None else 1 - (logits / cap) ** 2

            weights, slope = _with_logits(static, tiles, n, m, weigh, log_normaliser[n])
            d_values = d_values.at[m].add(_dot("BGRCS,BGRCV->BGSV", weights.astype(d_out.dtype), d_out[n]))
            d_weights = _dot("BGRCV,BGSV->BGRCS", d_out[n], tiles.values[m])
            d_logits = weights * (d_weights - row_sum[..., None])
            d_logits = d_logits if slope is None else d_logits * slope
            new_queries, new_keys = [], []
            for b in range(len(static.spec.branches)):
                q, k = tiles.queries[b], tiles.keys[b]

                def add(gradients: tuple, q: Any = q, k: Any = k, b: int = b) -> tuple:
                    d_q, d_k, d_bias = gradients
                    d_inside = d_logits
                    if len(static.spec.branches) > 1:
                        d_inside = jnp.where(_inside(static, tiles, b, n, m), d_logits, 0.0)
                    scaled = (d_inside * static.spec.logit_scale).astype(q.dtype)
                    d_k = d_k.at[m].add(_dot("BGRCS,BGRCK->BGSK", scaled, q[n]))
                    d_q = d_q + _dot("BGRCS,BGSK->BGRCK", scaled, k[m])
                    return d_q, d_k, _add_bias_gradient(static, tiles, b, n, m, d_inside, d_bias)

                gradients = (d_queries[b], d_keys[b], (d_learned, d_query_features, d_key_features))
                if len(static.spec.branches) == 1:
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
    (d_keys, d_values, d_key_features, d_learned), (d_queries, d_query_features) = lax.scan(
        query_tile, zeros, jnp.arange(tiles.queries[0].shape[0])
    )
    d_features = None if tiles.features is None else Features(d_query_features, d_key_features)
    return _Gradients(d_queries, d_keys, d_values, d_features, d_learned)


def _with_logits(static: _Static, tiles: _Tiles, n: Any, m: Any, update: Callable, carry: Any) -> Any:
    """Return `update(logits, carry)`; the logits, [B, G, R, C, C], are for every pair those of the branch that it lies in.

    A tile whose visible pairs all lie in one branch takes one product; only one that a border crosses takes several. The whole
    update is inside the choice between them, because what leaves a choice is copied: the carry is small, logits are not.
    """
    branches = static.spec.branches
    if len(branches) == 1:
        return update(_logits(static, tiles, 0, n, m), carry)

    def several(carry: Any) -> Any:
        logits = _logits(static, tiles, 0, n, m)
        for b in range(1, len(branches)):

            def overlay(logits: jax.Array, b: int = b) -> jax.Array:
                return jnp.where(_inside(static, tiles, b, n, m), _logits(static, tiles, b, n, m), logits)

            present = tiles.plan.present_ZNMb[0, n, m, b]
            logits = lax.cond(present, overlay, lambda logits: logits, logits)
        return update(logits, carry)

    single = [lambda carry, b=b: update(_logits(static, tiles, b, n, m), carry) for b in range(len(branches))]
    return lax.switch(tiles.plan.branch_ZNM[0, n, m], [*single, several], carry)


def _logits(static: _Static, tiles: _Tiles, b: int, n: Any, m: Any) -> jax.Array:
    """Return those of branch b for all pairs of a tile, [B, G, R, C, C]."""
    spec = static.spec
    logits = _dot("BGRCK,BGSK->BGRCS", tiles.queries[b][n], tiles.keys[b][m]) * spec.logit_scale
    if spec.position.bias is not None:
        logits += _bias(static, tiles, b, n, m)(*_read_by_bias(tiles, n, m)).astype(logits.dtype)
    return logits if spec.softcap is None else spec.softcap * jnp.tanh(logits / spec.softcap)


def _read_by_bias(tiles: _Tiles, n: Any, m: Any) -> tuple[_Learned, Any, Any]:
    if tiles.features is None:
        return tiles.learned, None, None
    return tiles.learned, tiles.features.queries[n], tiles.features.keys[m]


def _bias(static: _Static, tiles: _Tiles, b: int, n: Any, m: Any) -> Callable[..., jax.Array]:
    """Return the bias of a tile as a function of what was learned and of the features of its tokens."""
    branch, groups, pairs = static.spec.branches[b], tiles.values.shape[2], _pairs(tiles, n, m)

    def bias(learned: _Learned, query_features: Any, key_features: Any) -> jax.Array:
        features = None if query_features is None else Features(query_features, key_features)
        return pair_bias(static.spec, branch, pairs, learned, features, groups)

    return bias


def _add_bias_gradient(
    static: _Static, tiles: _Tiles, b: int, n: Any, m: Any, d_logits: jax.Array, d_bias: tuple
) -> tuple:
    """Add what a tile's logits say to the gradients of what was learned, of query features and of key features."""
    d_learned, d_query_features, d_key_features = d_bias
    if static.spec.position.bias is None or not (d_learned or d_key_features is not None):
        return d_bias
    bias, pull_back = jax.vjp(_bias(static, tiles, b, n, m), *_read_by_bias(tiles, n, m))
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


def _tile_coordinates(tiles: _Tiles, n: Any, m: Any) -> tuple[Coordinates, Coordinates]:
    """Return those of one tile of queries and of one of keys, [B or 1, C]."""
    queries_at: Coordinates = jax.tree.map(lambda x: x[:, n], tiles.plan.queries)
    keys_at: Coordinates = jax.tree.map(lambda x: x[:, m], tiles.plan.keys)
    return queries_at, keys_at


def _pairs(tiles: _Tiles, n: Any, m: Any) -> Pairs:
    return pairs_of(*_tile_coordinates(tiles, n, m))


def _inside(static: _Static, tiles: _Tiles, b: int, n: Any, m: Any) -> jax.Array:
    """Return which pairs of a tile lie in branch b, [B or 1, 1, 1, C, C]."""
    inside: jax.Array = static.spec.branches[b].region.contains(_pairs(tiles, n, m))[:, None, None]
    return inside


def _visible(static: _Static, tiles: _Tiles, n: Any, m: Any) -> jax.Array:
    """Return which pairs of a tile are attended to, [B or 1, 1, 1, C, C]."""
    at = _tile_coordinates(tiles, n, m)
    return visible_pairs(static.spec, pairs_of(*at), *at)[:, None, None]


def _out_in_tiles(static: _Static, tiles: _Tiles, x_BTH: jax.Array) -> jax.Array:
    """[B, T, H, ...] -> [N, B, G, R, C, ...]."""
    groups = tiles.values.shape[2]
    x_BTGR = x_BTH.reshape(*x_BTH.shape[:2], groups, -1, *x_BTH.shape[3:])
    return jnp.moveaxis(in_tiles(x_BTGR, static.tile), 2, 4)


def _from_tiles(x_NBGRC: jax.Array, length: int) -> jax.Array:
    """[N, B, G, R, C, ...] -> [B, T, H, ...]."""
    x_BTGR = whole(jnp.moveaxis(x_NBGRC, 4, 2), length)
    return x_BTGR.reshape(*x_BTGR.shape[:2], -1, *x_BTGR.shape[4:])


def _keys_from_tiles(x_MBGCK: jax.Array, keys: int) -> jax.Array:
    """[M, B, G, C, K] -> [B, G, S, K]."""
    return heads_first(whole(x_MBGCK.swapaxes(2, 3), keys))
