"""The precision of matrix products, which a hand-written backward pass has to carry."""

from typing import Any

import jax


def carried_precision() -> str | None:
    """Return the caller's default precision of matrix products, for `jax.default_matmul_precision` of a backward pass.

    A backward pass is traced after the caller's setting is gone. Without it, float32 would be rounded to fewer bits on
    devices whose default is less, in gradients alone.
    """
    settings: Any = jax.config  # typed in some versions of JAX only
    precision: str | None = settings.jax_default_matmul_precision
    return precision
