"""Making parameters. Each names its logical axes; where they live on a mesh is decided elsewhere.

Initialisation: matrices ~ N(0, 1 / fan_in), those that write to the residual stream divided by the square root of the
number of such writes on top, so that its variance does not grow with depth; queries so that logits have the variance
that 1 / sqrt(K) gives them, whatever `attention_scale` is; embeddings ~ N(0, init_std^2); biases 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.spec import AttentionSpec
from lmarch.models.norms import in_float32


def matrix(rngs: nnx.Rngs, shape: Sequence[int], axes: Sequence[str], fan_in: int, scale: float = 1.0) -> nnx.Param:
    """Draw a matrix with the variance scale^2 / fan_in, which is `rounded` to the compute dtype wherever it is read."""
    std = scale / fan_in**0.5
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), axes=tuple(axes), rounded=True)


def biases(wanted: bool, shape: Sequence[int], axes: Sequence[str]) -> nnx.Param | None:
    """Return zeros, or None where no bias is wanted."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=tuple(axes)) if wanted else None


def biased(x: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """Return x + bias over its last dimensions."""
    if bias is None:
        return x
    shape = (1,) * (x.ndim - bias[...].ndim) + bias.shape
    return (in_float32(x) + in_float32(bias[...]).reshape(shape)).astype(x.dtype)


def learned_parameters(rngs: nnx.Rngs, spec: AttentionSpec, dim: int, *, shared: bool) -> nnx.Dict:
    """Make what positions and selections learn: the part that layers share, or the part that each has for itself.

    Args:
      dim: channels of the states that features are read from.
    """
    bias = spec.position.bias.parameters().keys() if spec.position.bias and spec.position.shared else ()
    wanted = {name: p for name, p in spec.learned(dim).items() if (name in bias) == shared}
    values = {name: (jnp.asarray(p.init(rngs.params()), jnp.float32), p.axes) for name, p in sorted(wanted.items())}
    return nnx.Dict({name: nnx.Param(value, axes=axes) for name, (value, axes) in values.items()})


def learned_values(parameters: nnx.Dict) -> dict[str, jax.Array]:
    """Return the values of `learned_parameters`, float32."""
    return {name: in_float32(value[...]) for name, value in parameters.items()}
