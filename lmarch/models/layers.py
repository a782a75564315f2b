"""The parts of a block. Each parameter names its logical axes; where they live on a mesh is decided elsewhere.

Initialisation: matrices ~ N(0, 1 / fan_in), those that write to the residual stream divided by sqrt(2 num_layers) on
top, so that its variance does not grow with depth; embeddings ~ N(0, init_std^2); norm scales 1; no biases.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.attend import attend
from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig


class Tokens(NamedTuple):
    """What a layer needs to know about the tokens, besides their states."""

    positions_BT: jax.Array | None
    segment_ids_BT: jax.Array | None
    shared: Mapping[str, jax.Array] = {}  # what the layer's position method learns for all layers together


def matrix(
    rngs: nnx.Rngs, config: ModelConfig, shape: Sequence[int], axes: Sequence[str], fan_in: int, scale: float = 1.0
) -> nnx.Param:
    std = scale / fan_in**0.5
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, config.param_dtype), axes=tuple(axes))


def position_parameters(rngs: nnx.Rngs, config: ModelConfig, spec: AttentionSpec, *, shared: bool) -> nnx.Dict:
    """What the spec's position method learns: the part that layers share, or the part that each has for itself."""
    bias = spec.position.bias.parameters().keys() if spec.position.bias and spec.position.shared else ()
    wanted = {name: p for name, p in spec.learned().items() if (name in bias) == shared}
    made = {
        name: (jnp.asarray(p.init(rngs.params()), config.param_dtype), p.axes) for name, p in sorted(wanted.items())
    }
    return nnx.Dict({name: nnx.Param(value, axes=axes) for name, (value, axes) in made.items()})


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


class PositionEmbedding(nnx.Module):
    """Adds absolute positions to token embeddings, for the methods that have them."""

    def __init__(self, config: ModelConfig, spec: AttentionSpec, *, rngs: nnx.Rngs) -> None:
        self.embedding, self.rms = spec.position.embedding, config.init_std
        learned = self.embedding.embedding_parameters(config.dim) if self.embedding else {}
        made = {
            name: nnx.Param(p.init(rngs.params()).astype(config.param_dtype), axes=p.axes)
            for name, p in learned.items()
        }
        self.learned = nnx.Dict(made)

    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        if self.embedding is None:
            return x_BTD
        if positions_BT is None:
            positions_BT = jnp.arange(x_BTD.shape[1], dtype=jnp.int32)[None]
        learned = {name: value[...] for name, value in self.learned.items()}
        return x_BTD + self.embedding.embed(learned, positions_BT, x_BTD.shape[-1], self.rms).astype(x_BTD.dtype)


class Attention(nnx.Module):
    """Grouped-query self-attention; where positions and masks enter is the spec's business."""

    def __init__(self, config: ModelConfig, spec: AttentionSpec, *, rngs: nnx.Rngs) -> None:
        D, H, G, K = config.dim, config.num_heads, config.kv_heads, config.head_size
        self.config, self.spec = config, spec
        self.query = matrix(rngs, config, (D, H, K), ("embed", "heads", "head_dim"), fan_in=D)
        self.key = matrix(rngs, config, (D, G, K), ("embed", "kv_heads", "head_dim"), fan_in=D)
        self.value = matrix(rngs, config, (D, G, K), ("embed", "kv_heads", "head_dim"), fan_in=D)
        axes = ("heads", "head_dim", "embed")
        self.out = matrix(rngs, config, (H, K, D), axes, fan_in=H * K, scale=residual_scale(config))
        if config.qk_norm:
            self.query_norm = RMSNorm(config, K, "head_dim")
            self.key_norm = RMSNorm(config, K, "head_dim")
        self.position = position_parameters(rngs, config, spec, shared=False)

    def __call__(self, x_BTD: jax.Array, tokens: Tokens) -> jax.Array:
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
            self.spec,
            implementation=self.config.attention,
            positions=tokens.positions_BT,
            segment_ids=tokens.segment_ids_BT,
            learned={**{name: value[...] for name, value in self.position.items()}, **tokens.shared},
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

    def __init__(self, config: ModelConfig, spec: AttentionSpec, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(config, config.dim, "embed")
        self.attention = Attention(config, spec, rngs=rngs)
        self.ffn_norm = RMSNorm(config, config.dim, "embed")
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, tokens: Tokens) -> jax.Array:
        x_BTD += self.attention(self.attention_norm(x_BTD), tokens)
        x_BTD += self.ffn(self.ffn_norm(x_BTD))
        return x_BTD
