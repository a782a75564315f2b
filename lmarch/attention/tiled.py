"""The same attention in O(T) memory: tiles of queries against only those tiles of keys that hold a visible pair.

Which tiles a tile of queries visits is planned once (`tiles.py`); what is computed of them is in `tile_loops.py`. Here is
what a gradient needs around that: queries and keys come unrotated and are rotated here, forward and backward, so that a layer
keeps none of the rotated copies for its backward pass.

All rows of a batch visit the same tiles. On a CPU that is the only device, rows with coordinates of their own are computed
one after the other where a layer has many branches, so that none multiplies a branch for another.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lmarch.attention.operands import Operands, Rotated, carried_precision, heads_first, rotated
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tile_loops import Learned, Tiles, backward, forward
from lmarch.attention.tiles import TILE, TilePlan, in_tiles, make_plan, whole
from lmarch.attention.workload import Workload
from lmarch.content import Features

# From so many on a row alone is faster on 2 cores: with 3, a gradient over 16 packed rows of 512 took 0.83 of the time; with 1
# and 2 as long, or up to 1.08 times, since single rows keep fewer cores busy.
MANY_BRANCHES = 3


def tiled(operands: Operands, spec: AttentionSpec, tile: int = TILE) -> tuple[jax.Array, jax.Array]:
    """Return what `dense` does, for any length; differentiable in all of floating point that `Operands` holds but waves."""
    at = operands.queries_at, operands.keys_at
    tile = min(tile, max(operands.q_BTHK.shape[1], operands.v_BGSV.shape[2]))
    rows_differ = any(len(x) > 1 for x in jax.tree.leaves([side._replace(spans=None) for side in at]))
    alone = jax.default_backend() == "cpu" and jax.local_device_count() == 1
    by_row = rows_differ and alone and len(spec.branches) >= MANY_BRANCHES
    inputs = _Inputs(
        q_BTHK=operands.q_BTHK,
        keys=operands.keys,
        v_BGSV=operands.v_BGSV,
        temperature=operands.temperature,
        features=operands.features.get("bias"),
    )
    left_out: dict[str, Any] = dict.fromkeys(_Inputs._fields)
    rest = operands._replace(**left_out, learned={})
    plan = make_plan(spec, *at, tile, by_row=by_row)
    bias = spec.position.bias
    learned = {} if bias is None else {name: operands.learned[name] for name in bias.parameters()}
    return _attention(_Static(spec, tile, by_row, carried_precision()), inputs, learned, (rest, plan))


def serves(workload: Workload) -> str | None:
    """Return why a workload cannot be cut into tiles; None: it can."""
    if workload.spec.stepwise:
        return f"{workload.spec.position.method} turns all keys anew for every query: choose 'dense' or 'auto'"
    return None


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


_Fixed = tuple[Operands, TilePlan]  # waves and coordinates; the rest of the operands is left out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: _Static, inputs: _Inputs, learned: Learned, fixed: _Fixed) -> tuple[jax.Array, jax.Array]:
    return _forward(static, inputs, learned, fixed)[0]


def _forward(static: _Static, inputs: _Inputs, learned: Learned, fixed: _Fixed) -> tuple[tuple, tuple]:
    def rows(inputs: _Inputs, fixed: _Fixed) -> tuple[jax.Array, ...]:
        tiles = _in_tiles(static, inputs, learned, fixed, _rotated(static, inputs, fixed))
        return tuple(_from_tiles(x, inputs.q_BTHK.shape[1]) for x in forward(static.spec, tiles))

    # Their names let a policy of rematerialisation keep them, so that it does not run the loop again (models/stack.py).
    out, log_normaliser = (checkpoint_name(x, "attention") for x in _over_rows(static, rows, (inputs, fixed)))
    return (out, log_normaliser), (inputs, learned, fixed, out, log_normaliser)


def _backward(static: _Static, saved: tuple, cotangents: tuple[jax.Array, jax.Array]) -> tuple:
    inputs, learned, fixed, out, log_normaliser = saved

    def rows(inputs: _Inputs, fixed: _Fixed, *of_queries: jax.Array) -> tuple[_Inputs, Learned]:
        def rotate(q_BTHK: jax.Array, keys: tuple[jax.Array, ...], temperature: jax.Array | None) -> Rotated:
            return _rotated(static, inputs._replace(q_BTHK=q_BTHK, keys=keys, temperature=temperature), fixed)

        both, rotate_back = jax.vjp(rotate, inputs.q_BTHK, inputs.keys, inputs.temperature)
        tiles = _in_tiles(static, inputs, learned, fixed, both)
        gradients = backward(static.spec, tiles, *(_out_in_tiles(static, tiles, x) for x in of_queries))
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


def _in_tiles(static: _Static, inputs: _Inputs, learned: Learned, fixed: _Fixed, both: Rotated) -> Tiles:
    features = None
    if inputs.features is not None:
        features = Features(*(in_tiles(x, static.tile).swapaxes(2, 3) for x in inputs.features))
    return Tiles(
        queries=tuple(in_tiles(q, static.tile).transpose(0, 1, 3, 4, 2, 5) for q in both.queries),
        keys=tuple(in_tiles(k, static.tile, axis=2) for k in both.keys),
        values=in_tiles(inputs.v_BGSV, static.tile, axis=2),
        features=features,
        learned=learned,
        plan=fixed[1],
    )


def _out_in_tiles(static: _Static, tiles: Tiles, x_BTH: jax.Array) -> jax.Array:
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
