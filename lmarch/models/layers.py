"""The parts of a block. Each parameter names its logical axes; where they live on a mesh is decided elsewhere.

Initialisation: matrices ~ N(0, 1 / fan_in), those that write to the residual stream divided by sqrt(2 num_layers) on
top, so that its variance does not grow with depth; embeddings ~ N(0, init_std^2); norm scales 1; no biases.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.attend import attend
from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig


def matrix(
    rngs: nnx.Rngs, config: ModelConfig, shape: Sequence[int], axes: Sequence[str], fan_in: int, scale: float = 1.0
) -> nnx.Param:
    std = scale / fan_in**0.5
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, config.param_dtype), axes=tuple(axes))


def residual_scale(config: ModelConfig) -> float:
    return (2 * config.num_layers) ** -0.5


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, computed in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, config: ModelConfig, size: int, axis: str) -> None:
        self.epsilon = config.norm_eps
        self.scale = nnx.Param(jnp.ones((size,), config.param_dtype), axes=(axis,))

    def __call__(self, x: jax.Array) -> jax.Array:
        exact = x.astype(jnp.promote_types(jnp.float32, x.dtype))
        normed = exact * jax.lax.rsqrt(jnp.mean(exact**2, axis=-1, keepdims=True) + self.epsilon)
        scale = self.scale[...].astype(exact.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return (normed * scale).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query self-attention; where positions and masks enter is the spec's business."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        D, H, G, K = config.dim, config.num_heads, config.kv_heads, config.head_size
        self.config = config
        self.query = matrix(rngs, config, (D, H, K), ("embed", "heads", "head_dim"), fan_in=D)
        self.key = matrix(rngs, config, (D, G, K), ("embed", "kv_heads", "head_dim"), fan_in=D)
        self.value = matrix(rngs, config, (D, G, K), ("embed", "kv_heads", "head_dim"), fan_in=D)
        axes = ("heads", "head_dim", "embed")
        self.out = matrix(rngs, config, (H, K, D), axes, fan_in=H * K, scale=residual_scale(config))
        if config.qk_norm:
            self.query_norm = RMSNorm(config, K, "head_dim")
            self.key_norm = RMSNorm(config, K, "head_dim")

    def __call__(
        self, x_BTD: jax.Array, spec: AttentionSpec, positions_BT: jax.Array | None, segment_ids_BT: jax.Array | None
    ) -> jax.Array:
        dtype = x_BTD.dtype
        q_BTHK = jnp.einsum("BTD,DHK->BTHK", x_BTD, self.query[...].astype(dtype))
        k_BTGK = jnp.einsum("BTD,DGK->BTGK", x_BTD, self.key[...].astype(dtype))
        v_BTGK = jnp.einsum("BTD,DGK->BTGK", x_BTD, self.value[...].astype(dtype))
        if self.config.qk_norm:
            q_BTHK, k_BTGK = self.query_norm(q_BTHK), self.key_norm(k_BTGK)
        out_BTHK = attend(
            q_BTHK,
            k_BTGK,
            v_BTGK,
            spec,
            implementation=self.config.attention,
            positions=positions_BT,
            segment_ids=segment_ids_BT,
        )
        return jnp.einsum("BTHK,HKD->BTD", out_BTHK, self.out[...].astype(dtype))


# name -> (activation, whether it multiplies a gate)
FEED_FORWARD = {"swiglu": (jax.nn.silu, True), "geglu": (jax.nn.gelu, True), "gelu": (jax.nn.gelu, False)}


class FeedForward(nnx.Module):
    """down(act(gate x) * up x), or down(act(up x)) without a gate (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        D, F = config.dim, config.ffn_size
        self.activation, gated = FEED_FORWARD[config.ffn]
        self.up = matrix(rngs, config, (D, F), ("embed", "mlp"), fan_in=D)
        self.gate = matrix(rngs, config, (D, F), ("embed", "mlp"), fan_in=D) if gated else None
        self.down = matrix(rngs, config, (F, D), ("mlp", "embed"), fan_in=F, scale=residual_scale(config))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        dtype = x_BTD.dtype
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])  # one row dimension: XLA's CPU backward pass is twice as fast
        up_NF = x_ND @ self.up[...].astype(dtype)
        if self.gate is None:
            hidden_NF = self.activation(up_NF)
        else:
            hidden_NF = self.activation(x_ND @ self.gate[...].astype(dtype)) * up_NF
        return (hidden_NF @ self.down[...].astype(dtype)).reshape(x_BTD.shape)


class Block(nnx.Module):
    """Pre-norm residual block."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(config, config.dim, "embed")
        self.attention = Attention(config, rngs=rngs)
        self.ffn_norm = RMSNorm(config, config.dim, "embed")
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(
        self, x_BTD: jax.Array, spec: AttentionSpec, positions_BT: jax.Array | None, segment_ids_BT: jax.Array | None
    ) -> jax.Array:
        x_BTD += self.attention(self.attention_norm(x_BTD), spec, positions_BT, segment_ids_BT)
        x_BTD += self.ffn(self.ffn_norm(x_BTD))
        return x_BTD
