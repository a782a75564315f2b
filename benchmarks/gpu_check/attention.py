"""Values and gradients of `lmarch.attend` against NumPy in float64, which shares no code with it.

The oracle turns a pair of channels as one complex number by a distance that is written down here, pair by pair, and has
the gradients by hand. Inputs are rounded to bfloat16 first and are then the same, exactly, in every dtype.

The tolerance is of the largest value in an array, and made of unit roundoffs u: 8 u for the arrays that are rounded to
the compute dtype on the way (turned queries and keys, weights, output; their gradients), and 4 T u of float32 for the
angles, up to T radians, which are float32 in every dtype.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lmarch
from benchmarks.gpu_check.compiling import compiled
from benchmarks.gpu_check.plan import AttentionPlan, Plan
from benchmarks.gpu_check.record import Figures, Record
from lmarch.attention.implementations import IMPLEMENTATIONS

BASE = 10_000.0
ARRAYS = ("output", "d_queries", "d_keys", "d_values")


@dataclasses.dataclass(frozen=True)
class Case:
    """A spec, and what it means: the distance and visibility of query t and key s, given a window w and its sinks."""

    position: str
    distance: Callable[[Any, Any, int], Any]
    window: str = "full"
    visible: Callable[[Any, Any, int], Any] = lambda t, s, w: s <= t
    packed: bool = False
    grouped: bool = False


SINKS = 3


def _capped(t: Any, s: Any, w: int) -> Any:
    return np.minimum(t - s, w)


CASES = {
    "rope": Case("rope", lambda t, s, w: t - s),
    "rerope": Case("rerope:window={w}", _capped),
    "lm_infinite": Case(
        "rope",
        _capped,
        f"lm_infinite:size={{w}},sinks={SINKS}",
        lambda t, s, w: (s <= t) & ((t - s < w) | (s < SINKS)),
    ),
    "rerope packed": Case("rerope:window={w}", _capped, packed=True),
    "rope grouped": Case("rope", lambda t, s, w: t - s, grouped=True),
}


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    dtype: str
    precision: str | None  # of float32 products, as `jax.default_matmul_precision` takes it
    roundoff: float


# In a float32 model lmarch asks for float32 products; `attend` alone has JAX's default, on recent GPUs TF32 (10 bits).
ARITHMETIC = {
    "float32": Arithmetic("float32", "float32", 2.0**-24),
    "bfloat16": Arithmetic("bfloat16", None, 2.0**-8),
    "float32, default products": Arithmetic("float32", None, 2.0**-11),
}


def begin(record: Record, whole: Plan) -> Callable[[], None]:
    """A row a case, implementation and arithmetic."""
    plan = whole.attention
    wanted = [
        (name, implementation, arithmetic)
        for arithmetic in plan.arithmetic
        for name in (plan.cases if "default" not in arithmetic else plan.cases[:1])
        for implementation in IMPLEMENTATIONS
    ]
    inputs = {name: _inputs(plan, CASES[name]) for name in plan.cases}
    programs = {each: compiled(record, lambda each=each: _lower(plan, *each, inputs[each[0]])) for each in wanted}

    def measure() -> None:
        expected = {name: _oracle(plan, CASES[name], *inputs[name]) for name in plan.cases}
        for name, implementation, arithmetic in wanted:

            def compare(each: tuple[str, str, str] = (name, implementation, arithmetic)) -> Figures:
                program, chosen = programs[each].result(), ARITHMETIC[each[2]]
                made = program.run(*_cast(inputs[each[0]][0], chosen.dtype))
                return {**_compared(plan, made, expected[each[0]], chosen), "compile_seconds": program.compile_seconds}

            record.measure("attention", f"{name}, {implementation}, {arithmetic}", compare)

    return measure


def _inputs(plan: AttentionPlan, case: Case) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """Queries, keys, values and the output's cotangent [2, T, heads, K], and segment ids [2, T] where rows are packed."""
    rng = np.random.default_rng(0)
    heads = (plan.heads, *(plan.kv_heads if case.grouped else plan.heads,) * 2, plan.heads)
    tensors = [rng.standard_normal((2, plan.length, count, plan.head_dim)) for count in heads]
    exact = tuple(np.asarray(x.astype(jnp.bfloat16), np.float64) for x in tensors)
    segments = np.sort(rng.integers(0, 3, (2, plan.length)), axis=1).astype(np.int32) if case.packed else None
    return exact, segments


def _cast(tensors: tuple[np.ndarray, ...], dtype: str) -> list[jax.Array]:
    return [jnp.asarray(x, dtype) for x in tensors]


def _lower(
    plan: AttentionPlan, name: str, implementation: str, arithmetic: str, inputs: tuple[tuple[np.ndarray, ...], Any]
) -> Any:
    case, (tensors, segments) = CASES[name], inputs
    spec = lmarch.attention_spec(
        position=case.position.format(w=plan.window),
        window=case.window.format(w=plan.window),
        head_dim=plan.head_dim,
        num_heads=plan.heads,
        trained_length=plan.length,
        rope_base=BASE,
    )

    def values_and_gradients(q: jax.Array, k: jax.Array, v: jax.Array, d_out: jax.Array) -> tuple[jax.Array, ...]:
        def attend(*qkv: jax.Array) -> jax.Array:
            return lmarch.attend(*qkv, spec, implementation=implementation, segment_ids=segments)

        out, pull_back = jax.vjp(attend, q, k, v)
        return out, *pull_back(d_out)

    chosen = ARITHMETIC[arithmetic]
    with jax.default_matmul_precision(chosen.precision):
        return jax.jit(values_and_gradients).lower(*_cast(tensors, chosen.dtype))


def _oracle(
    plan: AttentionPlan, case: Case, tensors: tuple[np.ndarray, ...], segments: np.ndarray | None
) -> list[np.ndarray]:
    """Output and gradients in queries, keys and values, float64."""
    q, k, v, d_out = (x.swapaxes(1, 2) for x in tensors)  # [B, H, T, K]
    groups = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, groups, axis=1) for x in (k, v))
    t, s = np.arange(plan.length)[:, None], np.arange(plan.length)[None]
    visible = np.broadcast_to(case.visible(t, s, plan.window), (2, 1, plan.length, plan.length))
    if segments is not None:
        visible = visible & (segments[:, None, :, None] == segments[:, None, None, :])
    half, scale = plan.head_dim // 2, plan.head_dim**-0.5
    q, k = (x[..., :half] + 1j * x[..., half:] for x in (q, k))
    distance = case.distance(t, s, plan.window)
    turns = [np.exp(1j * BASE ** (-i / half) * distance) for i in range(half)]  # [T, S] each

    logits = np.zeros(visible.shape[:1] + q.shape[1:3] + k.shape[2:3])
    for i, turn in enumerate(turns):
        logits += scale * (q[:, :, :, None, i] * k[:, :, None, :, i].conj() * turn).real
    weights = np.where(visible, np.exp(logits - np.where(visible, logits, -np.inf).max(-1, keepdims=True)), 0)
    weights /= weights.sum(-1, keepdims=True)

    d_weights = d_out @ v.swapaxes(-1, -2)
    d_logits = scale * weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
    d_q, d_k = np.zeros_like(q), np.zeros_like(k)
    for i, turn in enumerate(turns):
        d_q[..., i] = ((d_logits * turn.conj()) @ k[..., i, None])[..., 0]
        d_k[..., i] = ((d_logits * turn).swapaxes(-1, -2) @ q[..., i, None])[..., 0]
    real = [weights @ v, *(np.concatenate([x.real, x.imag], -1) for x in (d_q, d_k)), weights.swapaxes(-1, -2) @ d_out]
    of_groups = [x if n in (0, 1) else x.reshape(2, -1, groups, *x.shape[2:]).sum(2) for n, x in enumerate(real)]
    return [x.swapaxes(1, 2) for x in of_groups]


def _compared(plan: AttentionPlan, made: Any, expected: list[np.ndarray], arithmetic: Arithmetic) -> Figures:
    tolerance = 8 * arithmetic.roundoff + 4 * plan.length * 2.0**-24
    absolute = {
        name: float(np.abs(np.asarray(ours, np.float64) - oracle).max())
        for name, ours, oracle in zip(ARRAYS, made, expected, strict=True)
    }
    relative = {
        name: absolute[name] / float(np.abs(oracle).max()) for name, oracle in zip(ARRAYS, expected, strict=True)
    }
    largest = float(np.max(list(relative.values())))  # a NaN is the largest
    return {
        "relative_error": largest,
        "tolerance": tolerance,
        "ok": bool(largest <= tolerance),
        "relative_errors": relative,
        "absolute_errors": absolute,
    }
