"""What the gradient of a fused call costs: on a GPU each of its kernels is one that XLA cannot leave out."""

import jax
import jax.numpy as jnp
from equations import equations
from specs import rope

import lmarch


def products(implementation: str, position: str = "rope") -> int:
    """How many there are in a gradient with respect to queries, keys and values."""

    def loss(tensors):
        return lmarch.attend(*tensors, rope(position=position), implementation=implementation).sum()

    tensors = (jax.ShapeDtypeStruct((2, 40, 4, 16), jnp.float32),) * 3
    found = equations(jax.make_jaxpr(jax.grad(loss))(tensors).jaxpr)
    return sum(equation.primitive.name == "dot_general" for equation in found)


def test_one_call_takes_nothing_for_a_logarithm_that_nobody_reads() -> None:
    """It keeps nothing of its kernel, so that the backward pass calls that once more: two products."""
    assert products("fused") == products("dense") + 2
