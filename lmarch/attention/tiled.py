"""The same attention in O(T) memory: tiles of queries against only those tiles of keys that hold a visible pair.

Online softmax forward and recomputation backward (FlashAttention, Dao et al. 2022), generalised to branches: a tile
costs one product per branch *present* in it, and a tile in which no query sees a key is never visited. Which tiles to
visit and which branches they hold follows, while it runs, from the smallest and largest index, position and document of
each tile (`_may_see`), because positions, documents and prefixes are inputs.

Shapes: N tiles of C queries [N, B, G, R, C, K], M tiles of C keys and values [M, B, G, C, K]; places and prefix flags
[N or M, B or 1, C].
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lmarch.attention.dense import MASKED, heads_in_groups
from lmarch.attention.operands import Operands
from lmarch.attention.places import NOWHERE, Places, pairs_of, visible_pairs
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import in_tiles, places_in_tiles, whole
from lmarch.branches import Branch, Pairs, Region

TILE = 128


def tiled(operands: Operands, spec: AttentionSpec, tile: int = TILE) -> tuple[jax.Array, jax.Array]:
    """As `dense`, for any length; differentiable in queries, keys, values and what the bias learned."""
    length, keys = operands.queries[0].shape[1], operands.values_BGSK.shape[2]
    tile = min(tile, max(length, keys))
    settings: Any = jax.config  # typed in some versions of JAX only
    static = _Static(spec, settings.jax_default_matmul_precision)
    out_NBGRCK, log_normaliser_NBGRC = _attention(
        static,
        tuple(in_tiles(q, tile).transpose(0, 1, 3, 4, 2, 5) for q in operands.queries),
        tuple(in_tiles(k, tile, axis=2) for k in operands.keys),
        in_tiles(operands.values_BGSK, tile, axis=2),
        operands.bias,
        (_make_tokens(operands.queries_at, None, tile), _make_tokens(operands.keys_at, operands.in_prefix_BS, tile)),
    )
    out_NBCGRK, log_normaliser_NBCGR = (jnp.moveaxis(x, 4, 2) for x in (out_NBGRCK, log_normaliser_NBGRC))
    return whole(out_NBCGRK, length), whole(log_normaliser_NBCGR, length)


class _Static(NamedTuple):
    spec: AttentionSpec
    precision: str | None  # of every product; the backward pass is traced after the caller's setting is gone


class _Tokens(NamedTuple):
    """Of one text."""

    at: Places
    in_prefix: jax.Array | None
    # The same, of whole tiles: the smallest and largest coordinates over all rows, [N] each; documents by row, [N, B].
    low: Places
    high: Places
    document_range: tuple[jax.Array, jax.Array] | None
    some_prefix: jax.Array | None


_FAR = 2**30  # beyond every coordinate, and twice of it is an int32


def _make_tokens(at: Places, in_prefix_BT: jax.Array | None, tile: int) -> _Tokens:
    made = places_in_tiles(at, tile)
    real = made.indices > NOWHERE
    coordinates = (made.positions, made.indices, made.ranks, None if made.windows is None else abs(made.windows))
    low = _each(lambda x: jnp.where(real, x, _FAR).min((1, 2)), coordinates)
    high = _each(lambda x: jnp.where(real, x, NOWHERE).max((1, 2)), coordinates)
    by_row = None if made.documents is None else (made.documents.min(2), made.documents.max(2))
    in_prefix = None if in_prefix_BT is None else in_tiles(in_prefix_BT, tile, mode="edge")
    some_prefix = None if in_prefix is None else in_prefix.any((1, 2))
    return _Tokens(made, in_prefix, low, high, by_row, some_prefix)


def _each(change: Callable[[jax.Array], jax.Array], coordinates: Iterable[jax.Array | None]) -> Places:
    made: Any = [None if x is None else change(x) for x in coordinates]
    return Places(*made)


class _Arrays(NamedTuple):
    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    values: jax.Array
    bias: dict[str, jax.Array]
    tokens: "_Both"


_Both = tuple[_Tokens, _Tokens]  # of the queries' text and of the keys'


def _bounds(tokens: _Both, n: Any, m: Any) -> tuple[Pairs, Pairs]:
    """The smallest and the largest coordinates of the pairs of query tile n and key tile m, over all rows.

    n and m are tile numbers or arrays of them.
    """

    def extremes(which: str) -> Pairs:
        queries, keys = (getattr(t, which) for t in tokens)
        each = [
            (None, None) if q is None or k is None else (q[n], k[m]) for q, k in zip(queries[:4], keys[:4], strict=True)
        ]
        return Pairs.of(*each)

    return extremes("low"), extremes("high")


def _may_see(static: _Static, tokens: _Both, n: jax.Array) -> jax.Array:
    """Which key tiles may hold a pair that query tile n sees: bool [M]; False is certain."""
    queries, keys = tokens
    count = keys.at.indices.shape[0]
    low, high = _bounds(tokens, jnp.full(count, n), jnp.arange(count))
    may = static.spec.visibility.may_meet(low, high, keys.some_prefix) & (keys.high.indices > NOWHERE)
    if queries.document_range is not None and keys.document_range is not None:
        (first, last), (lowest, highest) = queries.document_range, keys.document_range
        may &= ((first[n][None] <= highest) & (lowest <= last[n][None])).any(1)
    return jnp.broadcast_to(may, (count,))


def _visits(static: _Static, tokens: _Both, n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The key tiles that query tile n visits, [M] filled from the left, and their number."""
    may = _may_see(static, tokens, n)
    return jnp.argsort(~may, stable=True).astype(jnp.int32), may.sum(dtype=jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: _Static, *inputs: Any) -> tuple[jax.Array, jax.Array]:
    return _forward(static, *inputs)[0]


def _forward(static: _Static, *inputs: Any) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    arrays = _Arrays(*inputs)
    shape = arrays.queries[0].shape[1:]
    accumulate = jnp.promote_types(jnp.float32, arrays.values.dtype)

    def query_tile(n: jax.Array) -> tuple[jax.Array, jax.Array]:
        visits, count = _visits(static, arrays.tokens, n)

        def visit(i: jax.Array, carry: tuple) -> tuple:
            m = visits[i]

            def update(logits: jax.Array, carry: tuple) -> tuple:
                peak, total, weighted = carry
                visible = _visible(static, arrays.tokens, n, m)
                logits = jnp.where(visible, logits, MASKED)
                new_peak = jnp.maximum(peak, logits.max(-1))
                weights = jnp.where(visible, jnp.exp(logits - new_peak[..., None]), 0.0)
                shrink = jnp.exp(peak - new_peak)
                gathered = _dot(static, "BGRCS,BGSK->BGRCK", weights.astype(arrays.values.dtype), arrays.values[m])
                return new_peak, total * shrink + weights.sum(-1), weighted * shrink[..., None] + gathered

            # The whole update is inside the choice: what leaves it is small, a tile's logits would be copied.
            return _by_branches(static, arrays, n, m, update, carry)

        start = (jnp.full(shape[:-1], MASKED, accumulate), jnp.zeros(shape[:-1], accumulate))
        peak, total, weighted = lax.fori_loop(0, count, visit, (*start, jnp.zeros(shape, accumulate)))
        seen = total > 0  # a query that sees nothing gets zeros
        total = jnp.where(seen, total, 1.0)
        return (weighted / total[..., None]).astype(arrays.values.dtype), peak + jnp.log(total)

    out, log_normaliser = lax.map(query_tile, jnp.arange(arrays.queries[0].shape[0]))
    return (out, log_normaliser), (arrays, out, log_normaliser)


def _backward(static: _Static, saved: tuple, cotangents: tuple[jax.Array, jax.Array]) -> tuple:
    arrays, out, log_normaliser = saved
    d_out, d_log_normaliser = cotangents
    accumulate = log_normaliser.dtype

    def query_tile(carry: tuple, n: jax.Array) -> tuple:
        visits, count = _visits(static, arrays.tokens, n)
        # The gradient of a softmax row is weights * (d_weights - sum(weights * d_weights)), and its denominator's
        # logarithm has the weights themselves.
        row_sum = (d_out[n].astype(accumulate) * out[n]).sum(-1) - d_log_normaliser[n]

        def visit(i: jax.Array, carry: Any) -> tuple:
            d_queries, d_keys, d_values, d_bias = carry
            m = visits[i]
            visible = _visible(static, arrays.tokens, n, m)

            def weigh(logits: jax.Array, log_normaliser: jax.Array) -> tuple[jax.Array, Any]:
                weights = jnp.exp(jnp.where(visible, logits, MASKED) - log_normaliser[..., None])
                cap = static.spec.softcap  # c tanh(x / c) has the slope 1 - tanh^2
                return jnp.where(visible, weights, 0.0), None if cap is None else 1 - (logits / cap) ** 2

            weights, slope = _by_branches(static, arrays, n, m, weigh, log_normaliser[n])
            d_values = d_values.at[m].add(_dot(static, "BGRCS,BGRCK->BGSK", weights.astype(d_out.dtype), d_out[n]))
            d_weights = _dot(static, "BGRCK,BGSK->BGRCS", d_out[n], arrays.values[m])
            d_logits = weights * (d_weights - row_sum[..., None])
            d_logits = d_logits if slope is None else d_logits * slope
            new_queries, new_keys = [], []
            operands = zip(static.spec.branches, arrays.queries, arrays.keys, d_queries, d_keys, strict=True)
            for branch, q, k, d_query, d_key in operands:

                def add(gradients: tuple, q: Any = q, k: Any = k, branch: Branch = branch) -> tuple:
                    dq, dk, d_bias = gradients
                    d_inside = jnp.where(_inside(arrays.tokens, branch.region, n, m), d_logits, 0.0)
                    scaled = (d_inside * static.spec.logit_scale).astype(q.dtype)
                    dk = dk.at[m].add(_dot(static, "BGRCS,BGRCK->BGSK", scaled, q[n]))
                    dq = dq + _dot(static, "BGRCS,BGSK->BGRCK", scaled, k[m])
                    return dq, dk, _add_bias_gradient(static, arrays, branch, n, m, d_inside, d_bias)

                d_query, d_key, d_bias = _where_present(
                    arrays.tokens, branch.region, n, m, add, (d_query, d_key, d_bias)
                )
                new_queries.append(d_query)
                new_keys.append(d_key)
            return tuple(new_queries), tuple(new_keys), d_values, d_bias

        zeros = tuple(jnp.zeros(q.shape[1:], accumulate) for q in arrays.queries)
        d_queries, *carry_out = lax.fori_loop(0, count, visit, (zeros, *carry))
        return tuple(carry_out), d_queries

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, accumulate), (arrays.keys, arrays.values, arrays.bias))
    scanned: Any = lax.scan(query_tile, zeros, jnp.arange(arrays.queries[0].shape[0]))
    (d_keys, d_values, d_bias), d_queries = scanned
    gradients = (d_queries, d_keys, d_values, d_bias)
    return (*jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, tuple(arrays[:4])), None)


_attention.defvjp(_forward, _backward)


def _dot(static: _Static, equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    accumulate = jnp.promote_types(jnp.float32, a.dtype)
    return jnp.einsum(equation, a, b, precision=static.precision, preferred_element_type=accumulate)


def _by_branches(static: _Static, arrays: _Arrays, n: Any, m: Any, update: Callable, carry: Any) -> Any:
    """`update(logits, carry)`; the logits, [B, G, R, C, C], are for every pair those of the branch that it lies in.

    A tile within one branch takes one product; only one that a border crosses takes several.
    """
    branches = static.spec.branches

    def product(b: int) -> jax.Array:
        spec = static.spec
        made = _dot(static, "BGRCK,BGSK->BGRCS", arrays.queries[b][n], arrays.keys[b][m]) * spec.logit_scale
        if spec.position.bias is not None:
            made += _bias(static, arrays, branches[b], n, m)(arrays.bias).astype(made.dtype)
        return made if spec.softcap is None else spec.softcap * jnp.tanh(made / spec.softcap)

    def several(carry: Any) -> Any:
        logits = product(0)
        for b, branch in enumerate(branches[1:], start=1):

            def overlay(logits: jax.Array, b: int = b, region: Region = branch.region) -> jax.Array:
                return jnp.where(_inside(arrays.tokens, region, n, m), product(b), logits)

            logits = lax.cond(present[b], overlay, lambda logits: logits, logits)
        return update(logits, carry)

    if len(branches) == 1:
        return update(product(0), carry)
    low, high = _bounds(arrays.tokens, n, m)
    present = jnp.stack([branch.region.may_meet(low, high) for branch in branches])
    single = [lambda carry, b=b: update(product(b), carry) for b in range(len(branches))]
    return lax.switch(jnp.where(present.sum() == 1, jnp.argmax(present), len(branches)), [*single, several], carry)


def _bias(static: _Static, arrays: _Arrays, branch: Branch, n: jax.Array, m: jax.Array) -> Any:
    """What the bias learned -> its values in the tile, [B or 1, G, R, C, C]."""
    t, s = branch.places(_pairs(arrays.tokens, n, m))
    bias = static.spec.position.bias
    assert bias is not None
    return lambda learned: heads_in_groups(bias(learned, t, s), arrays.values.shape[2])


def _add_bias_gradient(
    static: _Static, arrays: _Arrays, branch: Branch, n: Any, m: Any, d_inside: jax.Array, d_bias: dict
) -> dict:
    if not d_bias:
        return d_bias
    made, pull_back = jax.vjp(_bias(static, arrays, branch, n, m), arrays.bias)
    if made.shape[0] < d_inside.shape[0]:
        d_inside = d_inside.sum(0, keepdims=True)
    (gradient,) = pull_back(d_inside.astype(made.dtype))
    return jax.tree.map(jnp.add, d_bias, jax.tree.map(lambda g, d: g.astype(d.dtype), gradient, d_bias))


def _where_present(tokens: _Both, region: Region, n: Any, m: Any, update: Any, value: Any) -> Any:
    """`update(value)` if the tile may hold a pair of `region`, else `value`, at no cost."""
    if region == Region():
        return update(value)
    return lax.cond(region.may_meet(*_bounds(tokens, n, m)), update, lambda value: value, value)


def _tile(tokens: _Tokens, n: jax.Array) -> Places:
    """Of one tile, [B or 1, C]."""
    return _each(lambda x: x[n], tokens.at)


def _pairs(tokens: _Both, n: jax.Array, m: jax.Array) -> Pairs:
    """The coordinates of a tile's pairs, as arrays that broadcast to [B or 1, C, C]."""
    return pairs_of(_tile(tokens[0], n), _tile(tokens[1], m))


def _inside(tokens: _Both, region: Region, n: jax.Array, m: jax.Array) -> jax.Array:
    """[B or 1, 1, 1, C, C]: the pairs of the tile that lie in `region`."""
    inside: jax.Array = region.contains(_pairs(tokens, n, m))[:, None, None]
    return inside


def _visible(static: _Static, tokens: _Both, n: jax.Array, m: jax.Array) -> jax.Array:
    """[B or 1, 1, 1, C, C]: the pairs that are attended to."""
    queries_at, keys_at = _tile(tokens[0], n), _tile(tokens[1], m)
    in_prefix = None if tokens[1].in_prefix is None else tokens[1].in_prefix[m]
    pairs = pairs_of(queries_at, keys_at)
    return visible_pairs(static.spec, pairs, queries_at, keys_at, in_prefix)[:, None, None]
