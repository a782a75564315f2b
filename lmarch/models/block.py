"""The block: a mixer, cross-attention if there is a memory, and the feed-forward, around one residual stream."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from lmarch.attention.cache import CrossCache, Reading
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.models.attention import Attention
from lmarch.models.feed_forward import FeedForward
from lmarch.models.mixer import MIXERS, Added, State
from lmarch.models.norms import make_norm
from lmarch.models.text import Context, Memory

Mix = Callable[[jax.Array], jax.Array]


class Block(nnx.Module):
    """Pre-norm x + f(norm x), or post-norm norm(x + f(x)); in parallel (GPT-J, GPT-NeoX) both f read the same x."""

    def __init__(
        self, config: ModelConfig, spec: AttentionSpec, cross: AttentionSpec | None = None, *, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        residual_scale = ((2 if cross is None else 3) * config.num_layers) ** -0.5
        mixer = MIXERS.build(config.mixer)
        self.mixer_name = "attention" if config.mixer["name"] == "attention" else "mixer"
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
        self, x_BTD: jax.Array, context: Context, shared: Mapping[str, jax.Array], memory: Memory | None = None
    ) -> tuple[jax.Array, Added]:
        """Return the states after the block, and what its layers add to the loss."""
        added: list[Added] = []

        def mix(x_BTD: jax.Array) -> jax.Array:
            mixed_BTD, loss = self.mixer(x_BTD, context, shared)
            added.append(loss)
            return mixed_BTD

        return self._around(x_BTD, mix, context, memory), sum(added)

    def step(
        self,
        x_BTD: jax.Array,
        context: Context,
        reading: Reading,
        state: State,
        shared: Mapping[str, jax.Array],
        memory: CrossCache | None = None,
    ) -> tuple[jax.Array, State]:
        """Return the states of tokens that follow those that `state` remembers, and the state with them."""
        states: list[State] = []

        def mix(x_BTD: jax.Array) -> jax.Array:
            mixed_BTD, after = self.mixer.step(x_BTD, context, reading, state, shared)
            states.append(after)
            return mixed_BTD

        return self._around(x_BTD, mix, context, memory), states[0]

    def weights(self, x_BTD: jax.Array, context: Context, shared: Mapping[str, jax.Array]) -> Weights:
        """Return the attention weights of a block that attends."""
        read_BTD = x_BTD if self.config.norm_place == "post" else self.attention_norm(x_BTD)
        weights: Weights = self.mixer.weights(read_BTD, context, shared)
        return weights

    def _around(self, x_BTD: jax.Array, mix: Mix, context: Context, memory: Memory | CrossCache | None) -> jax.Array:
        """Return the residual stream after each layer of the block has added to it."""
        if self.config.block != "sequential":
            normed_BTD = self.attention_norm(x_BTD)
            ffn_BTD = self.ffn(normed_BTD if self.ffn_norm is None else self.ffn_norm(x_BTD))
            return x_BTD + mix(normed_BTD) + ffn_BTD

        def add(x_BTD: jax.Array, norm: Mix, layer: Mix) -> jax.Array:
            if self.config.norm_place == "post":
                return norm(x_BTD + layer(x_BTD))
            return x_BTD + layer(norm(x_BTD))

        x_BTD = add(x_BTD, self.attention_norm, mix)
        if memory is not None:
            x_BTD = add(x_BTD, self.cross_norm, lambda x: self.cross_attention.across(x, memory, context.at))
        assert self.ffn_norm is not None
        return add(x_BTD, self.ffn_norm, self.ffn)
