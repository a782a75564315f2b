"""The small parts of a block: norms, the feed-forward, and how parameters are made.

Each parameter names its logical axes; where they live on a mesh is decided elsewhere. Norms are computed in float32, and
returned in the dtype of their input.

Initialisation: matrices ~ N(0, 1 / fan_in), those that write to the residual stream divided by the square root of the number
of such writes on top, so that its variance does not grow with depth; queries so that logits have the variance that 1 / sqrt(K)
gives them, whatever `attention_scale` is; embeddings ~ N(0, init_std^2); biases 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig


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


class RMSNorm(nnx.Module):
    """x / rms(x) * scale (Zhang and Sennrich 2019); with `norm_offset` the parameter is scale - 1, as in Gemma."""

    def __init__(self, config: ModelConfig, size: int, axis: str) -> None:
        self.epsilon, self.offset = config.norm_eps, 1.0 if config.norm_offset else 0.0
        self.scale = nnx.Param(jnp.full((size,), 1 - self.offset, jnp.float32), axes=(axis,))

    def __call__(self, x: jax.Array) -> jax.Array:
        exact = in_float32(x)
        normed = exact * jax.lax.rsqrt(jnp.mean(exact**2, axis=-1, keepdims=True) + self.epsilon)
        return (normed * (_last(self.scale, exact) + self.offset)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias (Ba et al. 2016); `norm_offset` as above."""

    def __init__(self, config: ModelConfig, size: int, axis: str) -> None:
        self.epsilon, self.offset = config.norm_eps, 1.0 if config.norm_offset else 0.0
        self.scale = nnx.Param(jnp.full((size,), 1 - self.offset, jnp.float32), axes=(axis,))
        self.bias = nnx.Param(jnp.zeros((size,), jnp.float32), axes=(axis,))

    def __call__(self, x: jax.Array) -> jax.Array:
        exact = in_float32(x)
        centred = exact - jnp.mean(exact, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + self.epsilon)
        return (normed * (_last(self.scale, exact) + self.offset) + _last(self.bias, exact)).astype(x.dtype)


NORMS: dict[str, type] = {"rms": RMSNorm, "layer": LayerNorm}


def make_norm(config: ModelConfig, size: int, axis: str = "embed") -> RMSNorm | LayerNorm:
    norm: RMSNorm | LayerNorm = NORMS[config.norm](config, size, axis)
    return norm


def in_float32(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 if it is. A sum over tokens, as the gradient of what they share is, needs no less."""
    return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _last(parameter: nnx.Param, like: jax.Array) -> jax.Array:
    """[size] -> [1, ..., size], to go with `like`."""
    return parameter[...].astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def _gelu_exact(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


# name -> (activation, whether it multiplies a gate); `gelu` is the tanh approximation
FEED_FORWARD = {
    "swiglu": (jax.nn.silu, True),
    "geglu": (jax.nn.gelu, True),
    "gelu": (jax.nn.gelu, False),
    "gelu_exact": (_gelu_exact, False),
    "relu": (jax.nn.relu, False),
}


class FeedForward(nnx.Module):
    """down(act(gate x) * up x), or down(act(up x)) without a gate (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, residual_scale: float, *, rngs: nnx.Rngs) -> None:
        D, F = config.dim, config.ffn_size
        self.activation, gated = FEED_FORWARD[config.ffn]
        self.up = matrix(rngs, (D, F), ("embed", "mlp"), fan_in=D)
        self.gate = matrix(rngs, (D, F), ("embed", "mlp"), fan_in=D) if gated else None
        self.down = matrix(rngs, (F, D), ("mlp", "embed"), fan_in=F, scale=residual_scale)
        self.up_bias = biases(config.ffn_bias, (F,), ("mlp",))
        self.gate_bias = biases(config.ffn_bias and gated, (F,), ("mlp",))
        self.down_bias = biases(config.ffn_bias, (D,), ("embed",))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        dtype = x_BTD.dtype
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])  # one row dimension: XLA's CPU backward pass is twice as fast
        up_NF = biased(x_ND @ self.up[...].astype(dtype), self.up_bias)
        if self.gate is None:
            hidden_NF = self.activation(up_NF)
        else:
            hidden_NF = self.activation(biased(x_ND @ self.gate[...].astype(dtype), self.gate_bias)) * up_NF
        return biased(hidden_NF @ self.down[...].astype(dtype), self.down_bias).reshape(x_BTD.shape)
