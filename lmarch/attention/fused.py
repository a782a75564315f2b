"""`jax.nn.dot_product_attention` (cuDNN on GPU) for the specs it can express, in one call or in two.

A spec with one branch is one call: causal, causal with a window, or bidirectional. Two branches that split a causal
layer at d = w are two calls on disjoint pairs: near, causal with a window of w; far, causal with queries w .. T-1 against
keys 0 .. T-1-w. Each call gives its output and the logarithm of its softmax's denominator; weights
softmax(logarithms) merge them into one softmax over both. `dot_product_attention` has no gradient through that
logarithm, so `_call` brings one: the logarithm's gradient with respect to logits is the weights, and both products with
them are attention again, with other values.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from lmarch.attention.dense import MASKED
from lmarch.attention.operands import Operands, carried_precision, heads_first, rotated
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.workload import Workload, attention_platform
from lmarch.branches import Branch, Region

CAUSAL = Region(lag=(0, None))


class Call(NamedTuple):
    """One call: queries from `skip` on against keys up to `skip` before the end."""

    causal: bool
    window: int | None  # keys visible before the query, besides the query's own
    skip: int = 0


def calls(spec: AttentionSpec, length: int) -> tuple[Call, ...] | None:
    """Return the calls that serve an unpacked row of default positions; None if they cannot."""
    visibility, position = spec.visibility, spec.position
    if position.bias or visibility.to_prefix or visibility.layout or spec.selection or spec.sink or spec.softcap:
        return None
    if spec.value_dim != spec.head_dim or spec.stepwise:
        return None
    branches, seen = spec.branches, spec.visibility.always
    if len(seen) != 1:
        return None
    window = seen[0].lag[1]
    causal = seen[0] in (CAUSAL, Region(lag=(0, window)))
    if [branch.region for branch in branches] == [Region()] and (causal or seen == (Region(),)):
        return (Call(causal, window),)
    split = _split(branches)
    if seen == (CAUSAL,) and split is not None:
        near = Call(True, split - 1)
        return (near, Call(True, None, skip=split)) if split < length else (near,)
    return None


def _split(branches: tuple[Branch, ...]) -> int | None:
    """w of branches d < w and d >= w."""
    if len(branches) != 2 or (w := branches[1].region.distance[0]) is None:
        return None
    expected = [Region(distance=(None, w - 1)), Region(distance=(w, None))]
    return w if [branch.region for branch in branches] == expected else None


def serves(workload: Workload) -> str | None:
    """Return why a workload is not one of these calls; None: it is."""
    if workload.cached:
        return "it attends within whole texts: choose 'tiled', 'dense' or 'auto' for a cache"
    if workload.placed or workload.spec.selection is not None:
        return "it knows positions 0 .. T-1 and no selection: choose 'tiled' or 'auto'"
    if workload.packed or calls(workload.spec, workload.queries) is None:
        return (
            "it serves unpacked rows with one branch, or two that split a causal layer, without bias, prefix, sink or "
            "soft-cap, and values as wide as keys: choose 'tiled' or 'auto'"
        )
    return None


def is_one_kernel(workload: Workload) -> bool:
    """Whether cuDNN serves it in one call: two are merged by a logarithm that it returns in half precision."""
    planned = calls(workload.spec, workload.queries)
    kernel = served_by_cudnn(workload.dtype, workload.spec.head_dim, workload.platform)
    return kernel and planned is not None and len(planned) == 1


def fused(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    """Return what `dense` does, where `calls` finds a way."""
    planned, both = calls(spec, operands.q_BTHK.shape[1]), rotated(operands, spec)
    assert planned is not None  # `serves` was asked
    calls_with = zip(planned, both.queries, both.keys, strict=False)
    parts = [_part(call, q, k, operands.v_BGSV, spec.logit_scale) for call, q, k in calls_with]
    if len(parts) == 1:
        return parts[0]
    outs, log_normalisers = zip(*parts, strict=True)
    merged = functools.reduce(jnp.logaddexp, log_normalisers)
    weighted = [out * jnp.exp(one - merged)[..., None] for out, one in zip(outs, log_normalisers, strict=True)]
    return sum(weighted[1:], weighted[0]).astype(operands.v_BGSV.dtype), merged


def _part(
    call: Call, q_BTGRK: jax.Array, k_BGSK: jax.Array, v_BGSV: jax.Array, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Make one call for the layout of all queries: those without a key get zeros, and MASKED for the logarithm."""
    batch, length, groups, repeats, width = q_BTGRK.shape
    q_BTHK = q_BTGRK.reshape(batch, length, groups * repeats, width)[:, call.skip :]
    keep = k_BGSK.shape[2] - call.skip
    k_BSGK, v_BSGV = (heads_first(x)[:, :keep] for x in (k_BGSK, v_BGSV))
    out, log_normaliser = _call(_Settings(call, scale, carried_precision()), q_BTHK, k_BSGK, v_BSGV)
    out = jnp.pad(out, ((0, 0), (call.skip, 0), (0, 0), (0, 0)))
    return out, jnp.pad(log_normaliser, ((0, 0), (call.skip, 0), (0, 0)), constant_values=MASKED)


class _Settings(NamedTuple):
    call: Call
    scale: float
    precision: str | None  # the backward pass is traced after the caller's setting is gone


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _call(settings: _Settings, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _with_residual(settings, q, k, v)


def _kernel(settings: _Settings, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any) -> Any:
    call = settings.call
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=settings.scale,
        is_causal=call.causal,
        local_window_size=None if call.window is None else (call.window, 0),
        implementation="cudnn" if served_by_cudnn(q.dtype, q.shape[-1], attention_platform()) else None,
        **options,
    )


def served_by_cudnn(dtype: Any, head_dim: int, platform: str) -> bool:
    """Whether cuDNN's kernel takes them: half precision and certain head sizes.

    Else XLA's is called, which has the whole [T, S] matrix in memory.
    """
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return platform == "gpu" and half and head_dim % 8 == 0 and head_dim <= 128


def _with_residual(settings: _Settings, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    out, log_normaliser = _kernel(settings, q, k, v, return_residual=True)
    return out, log_normaliser.astype(jnp.promote_types(jnp.float32, q.dtype))


def _call_forward(settings: _Settings, *primals: CustomVJPPrimal) -> tuple:
    q, k, v = (primal.value for primal in primals)
    # Their names let a policy of rematerialisation keep them, so that it does not make the call again (models/stack.py).
    out, log_normaliser = (checkpoint_name(x, "attention") for x in _with_residual(settings, q, k, v))
    return (out, log_normaliser), (q, k, v)


def _call_backward(settings: _Settings, saved: tuple, cotangents: tuple) -> tuple:
    with jax.default_matmul_precision(settings.precision):
        return _gradients(settings, *saved, *cotangents)


def _gradients(
    settings: _Settings, q: jax.Array, k: jax.Array, v: jax.Array, d_out: Any, d_log_normaliser: Any
) -> tuple:
    _, pull_back = jax.vjp(functools.partial(_kernel, settings), q, k, v)
    d_q, d_k, d_v = pull_back(_instantiated(d_out))
    if isinstance(d_log_normaliser, SymbolicZero):  # nobody reads it: there is one call
        return d_q, d_k, d_v
    # log-normaliser: d q_t = scale dL_t sum_s p_ts k_s, attention with the keys as values;
    # d k_s = scale sum_t p_ts dL_t q_t, the values' gradient of any attention whose output's cotangent is dL_t q_t.
    weighted_keys = _kernel(settings, q, k, k)
    d_L = (d_log_normaliser * settings.scale)[..., None]
    _, pull_values = jax.vjp(lambda values: _kernel(settings, q, k, values), v)
    (weighted_queries,) = pull_values((d_L * q).astype(q.dtype))
    return d_q + (d_L * weighted_keys).astype(q.dtype), d_k + weighted_queries, d_v


def _instantiated(cotangent: Any) -> jax.Array:
    return jnp.zeros(cotangent.shape, cotangent.dtype) if isinstance(cotangent, SymbolicZero) else cotangent


_call.defvjp(_call_forward, _call_backward, symbolic_zeros=True)
