"""The feed-forward: what a layer computes for each token alone."""

import jax
from flax import nnx

from lmarch.config import ModelConfig
from lmarch.models.parameters import biased, biases, matrix


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
