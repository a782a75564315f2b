"""The equations of traced functions, those inside loops, branches and calls among them."""

from collections.abc import Iterator
from typing import Any

import jax


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield every equation of a jaxpr and of the jaxprs that its equations call."""
    for equation in jaxpr.eqns:
        yield equation
        for called in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            called = getattr(called, "jaxpr", called)
            if hasattr(called, "eqns"):
                yield from equations(called)
