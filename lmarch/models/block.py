"""The block: attention, cross-attention if there is a memory, and the feed-forward, around one residual stream."""

from collections.abc import Callable, Mapping

import jax
from flax import nnx

from lmarch.attention.cache import Past, Recalled
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.models.layers import Attention, FeedForward, Memory, Tokens
from lmarch.models.norms import make_norm


class Block(nnx.Module):
    """Pre-norm x + f(norm x), or post-norm norm(x + f(x)); in parallel (GPT-J, GPT-NeoX) both f read the same x."""

    def __init__(
        self, config: ModelConfig, spec: AttentionSpec, cross: AttentionSpec | None = None, *, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        residual_scale = ((2 if cross is None else 3) * config.num_layers) ** -0.5
        self.attention_norm = make_norm(config, config.dim)
        self.attention = Attention(config, spec, residual_scale, rngs=rngs)
        if cross is not None:
            self.cross_norm = make_norm(config, config.dim)
            self.cross_attention = Attention(config, cross, residual_scale, rngs=rngs)
        self.ffn_norm = None if config.block == "parallel_one_norm" else make_norm(config, config.dim)
        self.ffn = FeedForward(config, residual_scale, rngs=rngs)

    def weights(self, x_BTD: jax.Array, shared: Mapping[str, jax.Array]) -> Weights:
        """Of the self-attention in `__call__`."""
        read_BTD = x_BTD if self.config.norm_place == "post" else self.attention_norm(x_BTD)
        return self.attention.weights(read_BTD, shared)

    def __call__(
        self,
        x_BTD: jax.Array,
        tokens: Tokens,
        shared: Mapping[str, jax.Array],
        memory: Memory | Recalled | None = None,
        past: Past | None = None,
    ) -> jax.Array:
        if self.config.block != "sequential":
            normed_BTD = self.attention_norm(x_BTD)
            ffn_BTD = self.ffn(normed_BTD if self.ffn_norm is None else self.ffn_norm(x_BTD))
            return x_BTD + self.attention(normed_BTD, tokens, shared, past=past) + ffn_BTD

        def add(x_BTD: jax.Array, norm: Callable, layer: Callable[[jax.Array], jax.Array]) -> jax.Array:
            if self.config.norm_place == "post":
                normed: jax.Array = norm(x_BTD + layer(x_BTD))
                return normed
            return x_BTD + layer(norm(x_BTD))

        x_BTD = add(x_BTD, self.attention_norm, lambda x: self.attention(x, tokens, shared, past=past))
        if memory is not None:
            x_BTD = add(x_BTD, self.cross_norm, lambda x: self.cross_attention(x, tokens, {}, memory))
        assert self.ffn_norm is not None
        return add(x_BTD, self.ffn_norm, self.ffn)
