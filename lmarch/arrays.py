"""Formulas that hold for plain numbers, NumPy arrays and JAX arrays alike are written once, over a namespace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def array_namespace(*values: Any) -> Any:
    """Return `jax.numpy` if any of the values is an array of JAX (or a tracer of one), else `numpy`.

    Plain numbers count as NumPy's, which makes scalars of them: integers stay integers. None is an absent coordinate.
    """
    return jnp if any(isinstance(value, jax.Array) for value in values) else np
