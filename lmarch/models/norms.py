"""Normalisation layers. Computed in float32, returned in the dtype of their input."""

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.config import ModelConfig


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
    made: RMSNorm | LayerNorm = NORMS[config.norm](config, size, axis)
    return made


def in_float32(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 if it is. A sum over tokens, as the gradient of what they share is, needs no less."""
    return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _last(parameter: nnx.Param, like: jax.Array) -> jax.Array:
    """[size] -> [1, ..., size], to go with `like`."""
    return parameter[...].astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))
