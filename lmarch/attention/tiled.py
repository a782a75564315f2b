"""The same attention in O(T) memory: tiles of queries against only those tiles of keys that hold a visible pair.

Online softmax forward and recomputation backward (FlashAttention, Dao et al. 2022), generalised to branches: a tile
costs one product per branch *present* in it, and a tile in which no query sees a key is never visited. Which tiles
are visited follows from token indices when the function is traced (`_plan`); which branches a visited tile holds
follows from its positions while it runs, because positions are inputs.

Shapes: N tiles of C tokens; queries [N, B, G, R, C, K], keys and values [N, B, G, C, K], positions and segment ids
[N, B or 1, C].
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lmarch.attention.dense import MASKED
from lmarch.attention.operands import Operands
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Region, Tile

TILE = 128


def tiled(operands: Operands, spec: AttentionSpec, tile: int = TILE) -> jax.Array:
    """As `dense`, [B, T, G, R, K], for any length; differentiable in queries, keys and values."""
    length = operands.queries[0].shape[1]
    tile = min(tile, length)
    settings: Any = jax.config  # typed in some versions of JAX only
    precision = settings.jax_default_matmul_precision
    static = _Static(spec, length, tile, operands.logit_scale, precision)
    segments = operands.segment_ids_BT
    out_NBGRCK = _attention(
        static,
        tuple(_tiles(q, tile).transpose(0, 1, 3, 4, 2, 5) for q in operands.queries),
        tuple(_tiles(k, tile).transpose(0, 1, 3, 2, 4) for k in operands.keys),
        _tiles(operands.values_BSGK, tile).transpose(0, 1, 3, 2, 4),
        _tiles(operands.positions_BT, tile),
        None if segments is None else _tiles(segments, tile),
    )
    out_BNCGRK = out_NBGRCK.transpose(1, 0, 4, 2, 3, 5)
    return out_BNCGRK.reshape(out_BNCGRK.shape[0], -1, *out_BNCGRK.shape[3:])[:, :length]


def _tiles(x: jax.Array, tile: int) -> jax.Array:
    """[B, T, ...] -> [N, B, C, ...], padded with zeros; `_visible` hides the padding by its index."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % tile)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(x.shape[0], -1, tile, *x.shape[2:]).swapaxes(0, 1)


class _Static(NamedTuple):
    spec: AttentionSpec
    length: int
    tile: int
    logit_scale: float
    precision: str | None  # of every product; the backward pass is traced after the caller's setting is gone


class _Arrays(NamedTuple):
    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]
    values: jax.Array
    positions: jax.Array
    segments: jax.Array | None


@functools.cache
def _plan(spec: AttentionSpec, length: int, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """The key tiles that each query tile visits: indices [N, N], filled from the left, and their number [N]."""
    count = -(-length // tile)
    bounds = [(n * tile, min((n + 1) * tile, length) - 1) for n in range(count)]
    visits, counts = np.zeros((count, count), np.int32), np.zeros(count, np.int32)
    for n, queries in enumerate(bounds):
        seen = [m for m, keys in enumerate(bounds) if any(r.may_meet(Tile(*queries, *keys)) for r in spec.visibility)]
        visits[n, : len(seen)], counts[n] = seen, len(seen)
    return visits, counts


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: _Static, queries: Any, keys: Any, values: Any, positions: Any, segments: Any) -> jax.Array:
    return _forward(static, queries, keys, values, positions, segments)[0]


def _forward(static: _Static, *inputs: Any) -> tuple[jax.Array, tuple]:
    arrays = _Arrays(*inputs)
    visits, counts = map(jnp.asarray, _plan(static.spec, static.length, static.tile))
    shape = arrays.queries[0].shape[1:]
    accumulate = jnp.promote_types(jnp.float32, arrays.values.dtype)

    def query_tile(n: jax.Array) -> tuple[jax.Array, jax.Array]:
        def visit(i: jax.Array, carry: tuple) -> tuple:
            peak, total, weighted = carry
            m = visits[n, i]
            visible = _visible(static, arrays, n, m)
            logits = jnp.where(visible, _logits(static, arrays, n, m), MASKED)
            new_peak = jnp.maximum(peak, logits.max(-1))
            weights = jnp.where(visible, jnp.exp(logits - new_peak[..., None]), 0.0)
            shrink = jnp.exp(peak - new_peak)
            gathered = _dot(static, "BGRCS,BGSK->BGRCK", weights.astype(arrays.values.dtype), arrays.values[m])
            return new_peak, total * shrink + weights.sum(-1), weighted * shrink[..., None] + gathered

        start = (jnp.full(shape[:-1], MASKED, accumulate), jnp.zeros(shape[:-1], accumulate))
        peak, total, weighted = lax.fori_loop(0, counts[n], visit, (*start, jnp.zeros(shape, accumulate)))
        seen = total > 0  # a query that sees nothing gets zeros
        total = jnp.where(seen, total, 1.0)
        return (weighted / total[..., None]).astype(arrays.values.dtype), peak + jnp.log(total)

    out, log_normaliser = lax.map(query_tile, jnp.arange(counts.size))
    return out, (arrays, out, log_normaliser)


def _backward(static: _Static, saved: tuple, d_out: jax.Array) -> tuple:
    arrays, out, log_normaliser = saved
    branches = static.spec.position.branches
    visits, counts = map(jnp.asarray, _plan(static.spec, static.length, static.tile))
    accumulate = log_normaliser.dtype

    def query_tile(carry: tuple, n: jax.Array) -> tuple:
        # The gradient of a softmax row is weights * (d_weights - sum(weights * d_weights)).
        row_sum = (d_out[n].astype(accumulate) * out[n]).sum(-1, keepdims=True)

        def visit(i: jax.Array, carry: Any) -> tuple:
            d_queries, d_keys, d_values = carry
            m = visits[n, i]
            logits = _logits(static, arrays, n, m)
            visible = _visible(static, arrays, n, m)
            logits = jnp.where(visible, logits, MASKED)
            weights = jnp.where(visible, jnp.exp(logits - log_normaliser[n][..., None]), 0.0)
            d_values = d_values.at[m].add(_dot(static, "BGRCS,BGRCK->BGSK", weights.astype(d_out.dtype), d_out[n]))
            d_weights = _dot(static, "BGRCK,BGSK->BGRCS", d_out[n], arrays.values[m])
            d_logits = weights * (d_weights - row_sum) * static.logit_scale
            updated = []
            for branch, q, k, *gradient in zip(branches, arrays.queries, arrays.keys, d_queries, d_keys, strict=True):

                def add(dq: jax.Array, dk: jax.Array, q: Any = q, k: Any = k, region: Region = branch.region) -> tuple:
                    d_inside = jnp.where(_inside(arrays, region, n, m), d_logits, 0.0).astype(q.dtype)
                    dk = dk.at[m].add(_dot(static, "BGRCS,BGRCK->BGSK", d_inside, q[n]))
                    return dq + _dot(static, "BGRCS,BGSK->BGRCK", d_inside, k[m]), dk

                updated.append(_where_present(arrays, branch.region, n, m, add, tuple(gradient)))
            new_queries, new_keys = zip(*updated, strict=True)
            return new_queries, new_keys, d_values

        zeros = tuple(jnp.zeros(q.shape[1:], accumulate) for q in arrays.queries)
        d_queries, *carry_out = lax.fori_loop(0, counts[n], visit, (zeros, *carry))
        return tuple(carry_out), d_queries

    zeros = tuple(jnp.zeros(k.shape, accumulate) for k in arrays.keys), jnp.zeros(arrays.values.shape, accumulate)
    scanned: Any = lax.scan(query_tile, zeros, jnp.arange(counts.size))
    (d_keys, d_values), d_queries = scanned
    gradients = jax.tree.map(lambda g, x: g.astype(x.dtype), (d_queries, d_keys, d_values), tuple(arrays[:3]))
    return (*gradients, None, None)


_attention.defvjp(_forward, _backward)


def _dot(static: _Static, equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    accumulate = jnp.promote_types(jnp.float32, a.dtype)
    return jnp.einsum(equation, a, b, precision=static.precision, preferred_element_type=accumulate)


def _logits(static: _Static, arrays: _Arrays, n: jax.Array, m: jax.Array) -> jax.Array:
    """[B, G, R, C, C]: for every pair the product of the branch that it lies in, unmasked."""
    logits = jnp.zeros((), jnp.promote_types(jnp.float32, arrays.values.dtype))
    logits = jnp.broadcast_to(logits, (*arrays.queries[0].shape[1:-1], static.tile))
    for branch, q, k in zip(static.spec.position.branches, arrays.queries, arrays.keys, strict=True):

        def product(logits: jax.Array, q: Any = q, k: Any = k, region: Region = branch.region) -> tuple:
            scaled = _dot(static, "BGRCK,BGSK->BGRCS", q[n], k[m]) * static.logit_scale
            return (jnp.where(_inside(arrays, region, n, m), scaled, logits),)

        (logits,) = _where_present(arrays, branch.region, n, m, product, (logits,))
    return logits


def _where_present(arrays: _Arrays, region: Region, n: Any, m: Any, update: Any, values: tuple) -> tuple:
    """`update(*values)` if the tile may hold a pair of `region`, else `values`, at no cost."""
    if region == Region():
        return update(*values)
    t, s = arrays.positions[n], arrays.positions[m]
    present = region.may_meet(Tile(t.min(), t.max(), s.min(), s.max()))
    return lax.cond(present, update, lambda *values: values, *values)


def _inside(arrays: _Arrays, region: Region, n: jax.Array, m: jax.Array) -> jax.Array:
    """[B or 1, 1, 1, C, C]: the pairs of the tile whose positions lie in `region`."""
    return region.contains(arrays.positions[n][:, :, None], arrays.positions[m][:, None, :])[:, None, None]


def _visible(static: _Static, arrays: _Arrays, n: jax.Array, m: jax.Array) -> jax.Array:
    """[B or 1, 1, 1, C, C]: the pairs that are attended to."""
    offsets = jnp.arange(static.tile)
    t, s = (n * static.tile + offsets)[:, None], (m * static.tile + offsets)[None, :]
    seen = jnp.stack([region.contains(t, s) for region in static.spec.visibility]).any(0)
    visible = (seen & (s < static.length))[None, None, None]
    if arrays.segments is not None:
        same = arrays.segments[n][:, :, None] == arrays.segments[m][:, None, :]
        visible = visible & same[:, None, None]
    branches = static.spec.position.branches
    return visible & functools.reduce(jnp.logical_or, [_inside(arrays, branch.region, n, m) for branch in branches])
