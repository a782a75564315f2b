"""The block: a mixer, cross-attention if there is a memory, and the feed-forward, around one residual stream."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from lmarch.attention.key_value_cache import CrossCache
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.models.attention import Attention
from lmarch.models.layers import FeedForward, make_norm
from lmarch.models.mixer import MIXERS, Mixed, State
from lmarch.models.text import Context, Memory
from lmarch.registry import variant_name

Norm = Callable[[jax.Array], jax.Array]


class Block(nnx.Module):
    """Pre-norm x + f(norm x), or post-norm norm(x + f(x)); in parallel (GPT-J, GPT-NeoX) both f read the same x."""

    def __init__(
        self, config: ModelConfig, spec: AttentionSpec, cross: AttentionSpec | None = None, *, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        residual_scale = ((2 if cross is None else 3) * config.num_layers) ** -0.5
        mixer = MIXERS.build(config.mixer)
        self.mixer_name = variant_name(config.mixer)  # what its parameters are found under
        self.attention_norm = make_norm(config, config.dim)
        setattr(self, self.mixer_name, mixer.module(config, spec, residual_scale, rngs=rngs))
        if cross is not None:
            self.cross_norm = make_norm(config, config.dim)
            self.cross_attention = Attention(config, cross, residual_scale, rngs=rngs)
        self.ffn_norm = None if config.block == "parallel_one_norm" else make_norm(config, config.dim)
        self.ffn = FeedForward(config, residual_scale, rngs=rngs)

    @property
    def mixer(self) -> Any:
        """The `Mixer`."""
        return getattr(self, self.mixer_name)

    def __call__(
        self,
        x_BTD: jax.Array,
        context: Context,
        shared: Mapping[str, jax.Array],
        memory: Memory | CrossCache | None = None,
        state: State = None,
    ) -> Mixed:
        """Return the residual stream after the block, what it adds to the loss, and the mixer's state if one was given."""
        if self.config.block != "sequential":
            normed_BTD = self.attention_norm(x_BTD)
            mixed = self.mixer(normed_BTD, context, shared, state)
            ffn_BTD = self.ffn(normed_BTD if self.ffn_norm is None else self.ffn_norm(x_BTD))
            return mixed._replace(x_BTD=x_BTD + mixed.x_BTD + ffn_BTD)
        mixed = self.mixer(self._read(x_BTD, self.attention_norm), context, shared, state)
        x_BTD = self._add(x_BTD, mixed.x_BTD, self.attention_norm)
        if memory is not None:
            crossed_BTD = self.cross_attention.across(self._read(x_BTD, self.cross_norm), memory, context.at)
            x_BTD = self._add(x_BTD, crossed_BTD, self.cross_norm)
        assert self.ffn_norm is not None
        x_BTD = self._add(x_BTD, self.ffn(self._read(x_BTD, self.ffn_norm)), self.ffn_norm)
        return mixed._replace(x_BTD=x_BTD)

    def weights(self, x_BTD: jax.Array, context: Context, shared: Mapping[str, jax.Array]) -> Weights:
        """Return the attention weights of a block that attends."""
        weights: Weights = self.mixer.weights(self._read(x_BTD, self.attention_norm), context, shared)
        return weights

    def _read(self, x_BTD: jax.Array, norm: Norm) -> jax.Array:
        return x_BTD if self.config.norm_place == "post" else norm(x_BTD)

    def _add(self, x_BTD: jax.Array, layer_BTD: jax.Array, norm: Norm) -> jax.Array:
        return norm(x_BTD + layer_BTD) if self.config.norm_place == "post" else x_BTD + layer_BTD
