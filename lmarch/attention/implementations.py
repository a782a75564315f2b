"""The implementations of attention, and which of them `auto` takes.

To add one, write in a file of its own a function `(operands, spec) -> (output, log-normaliser)` that computes what `dense`
does, and a function `serves` that says what it cannot do; name both in IMPLEMENTATIONS, and in the order of the platforms
that it is for.
"""

from collections.abc import Callable

import jax

from lmarch.attention import fused, tiled
from lmarch.attention.dense import dense
from lmarch.attention.operands import Operands
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.stepwise import stepwise
from lmarch.attention.workload import Implementation, Workload
from lmarch.errors import UserError, nearest

# Up to so many pairs the whole [T, S] matrix is small, and one product beats a loop over tiles (benchmarks/attention.py).
FEW_PAIRS = 128 * 128
FEW_QUERIES = 8  # so many or fewer are attended in one product, whatever the number of keys


def _definition(operands: Operands, spec: AttentionSpec) -> tuple[jax.Array, jax.Array]:
    return (stepwise if spec.stepwise else dense)(operands, spec)


IMPLEMENTATIONS: dict[str, Implementation] = {
    "dense": Implementation(_definition, lambda workload: None),
    "tiled": Implementation(tiled.tiled, tiled.serves),
    "fused": Implementation(fused.fused, fused.serves),
}


def _is_small(workload: Workload) -> bool:
    return workload.queries <= FEW_QUERIES or workload.queries * workload.keys <= FEW_PAIRS


def _is_any(workload: Workload) -> bool:
    return True


# What `auto` takes: the first that serves and suits. The last one serves everything.
_ANYWHERE = (("dense", _is_small), ("tiled", _is_any), ("dense", _is_any))
ORDER: dict[str, tuple[tuple[str, Callable[[Workload], bool]], ...]] = {
    "cpu": _ANYWHERE,
    "tpu": _ANYWHERE,
    "gpu": (("fused", fused.is_one_kernel), *_ANYWHERE),
}


def require_known(implementation: str, where: str = "implementation") -> None:
    """Raise UserError unless there is an implementation of this name, or it is `auto`."""
    if implementation not in (*IMPLEMENTATIONS, "auto"):
        known = nearest(implementation, [*IMPLEMENTATIONS, "auto"])
        raise UserError(f"unknown {where} {implementation!r}; {known}")


def choose(implementation: str, workload: Workload) -> str:
    """Return the name of the implementation that a workload is computed by.

    Args:
      implementation: a name, which is used or refused, or `auto`.

    Raises:
      UserError: an unknown name, or an implementation that does not serve the workload, with the reason.
    """
    if implementation != "auto":
        require_known(implementation)
        if reason := IMPLEMENTATIONS[implementation].serves(workload):
            raise UserError(f"implementation={implementation!r} does not serve this layer: {reason}")
        return implementation
    order = ORDER.get(workload.platform, _ANYWHERE)
    return next(name for name, suits in order if IMPLEMENTATIONS[name].serves(workload) is None and suits(workload))
