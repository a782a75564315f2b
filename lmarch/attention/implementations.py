"""The implementations of attention: what each of them serves, and which of them `auto` takes.

To add one, write a function `(operands, spec) -> (output, log-normaliser)` that computes what `dense` does, say in `serves`
what it cannot do, and name it in IMPLEMENTATIONS and in the order of the platforms it is for.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lmarch.attention.dense import dense
from lmarch.attention.fused import attention_platform, calls, fused, served_by_cudnn
from lmarch.attention.operands import Operands
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.stepwise import stepwise
from lmarch.attention.tiled import tiled
from lmarch.errors import UserError, nearest

# Up to so many pairs the whole [T, S] matrix is small, and one product beats a loop over tiles (benchmarks/attention.py).
FEW_PAIRS = 128 * 128
FEW_QUERIES = 8  # so many or fewer are attended in one product, whatever the number of keys


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is to be attended: all that the choice of an implementation depends on."""

    spec: AttentionSpec
    queries: int
    keys: int
    dtype: Any
    placed: bool = False  # positions are something else than ranks
    packed: bool = False  # a row has several documents, a prefix, or parallel windows
    cached: bool = False  # keys are those of a cache
    platform: str = dataclasses.field(default_factory=attention_platform)


class Implementation(NamedTuple):
    """A way to compute attention."""

    attend: Callable[[Operands, AttentionSpec], tuple[jax.Array, jax.Array]]
    serves: Callable[[Problem], str | None]  # why it does not serve a problem; None: it does


def _definition(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    return (stepwise if spec.stepwise else dense)(operands, spec)


def _always(problem: Problem) -> str | None:
    return None


def _serves_tiled(problem: Problem) -> str | None:
    if problem.spec.stepwise:
        return f"{problem.spec.position.method} turns all keys anew for every query: choose 'dense' or 'auto'"
    return None


def _serves_fused(problem: Problem) -> str | None:
    if problem.cached:
        return "it attends within whole texts: choose 'tiled', 'dense' or 'auto' for a cache"
    if problem.placed or problem.spec.selection is not None:
        return "it knows positions 0 .. T-1 and no selection: choose 'tiled' or 'auto'"
    if problem.packed or calls(problem.spec, problem.queries) is None:
        return (
            "it serves unpacked rows with one branch, or two that split a causal layer, without bias, prefix, sink or "
            "soft-cap, and values as wide as keys: choose 'tiled' or 'auto'"
        )
    return None


IMPLEMENTATIONS: dict[str, Implementation] = {
    "dense": Implementation(_definition, _always),
    "tiled": Implementation(tiled, _serves_tiled),
    "fused": Implementation(fused, _serves_fused),
}


def _is_small(problem: Problem) -> bool:
    return problem.queries <= FEW_QUERIES or problem.queries * problem.keys <= FEW_PAIRS


def _is_one_kernel(problem: Problem) -> bool:
    """cuDNN serves it in one call: two would be merged by a logarithm that it returns in half precision."""
    planned = calls(problem.spec, problem.queries)
    kernel = served_by_cudnn(problem.dtype, problem.spec.head_dim, problem.platform)
    return kernel and planned is not None and len(planned) == 1


def _any(problem: Problem) -> bool:
    return True


# What `auto` takes: the first that serves and suits. The last one serves everything.
_ANYWHERE = (("dense", _is_small), ("tiled", _any), ("dense", _any))
ORDER: dict[str, tuple[tuple[str, Callable[[Problem], bool]], ...]] = {
    "cpu": _ANYWHERE,
    "tpu": _ANYWHERE,
    "gpu": (("fused", _is_one_kernel), *_ANYWHERE),
}


def choose(implementation: str, problem: Problem) -> str:
    """Return the name of the implementation that a problem is computed by.

    Args:
      implementation: a name, which is used or refused, or `auto`.

    Raises:
      UserError: an unknown name, or an implementation that does not serve the problem, with the reason.
    """
    if implementation != "auto":
        if implementation not in IMPLEMENTATIONS:
            known = [*IMPLEMENTATIONS, "auto"]
            raise UserError(f"unknown implementation {implementation!r}; {nearest(implementation, known)}")
        if reason := IMPLEMENTATIONS[implementation].serves(problem):
            raise UserError(f"implementation={implementation!r} does not serve this layer: {reason}")
        return implementation
    order = ORDER.get(problem.platform, _ANYWHERE)
    return next(name for name, suits in order if IMPLEMENTATIONS[name].serves(problem) is None and suits(problem))
