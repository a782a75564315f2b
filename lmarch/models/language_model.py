"""What every architecture has around its stacks: token embeddings, absolute positions, and logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig
from lmarch.models.layers import Tokens, matrix
from lmarch.models.norms import make_norm


class Sites(NamedTuple):
    """The attention sites of a model: the specs of each stack's pattern of layers, and that across."""

    encoder: tuple[AttentionSpec, ...]
    decoder: tuple[AttentionSpec, ...]  # or of the one stack there is
    cross: AttentionSpec | None


class PositionEmbedding(nnx.Module):
    """Adds absolute positions to token embeddings, for the methods that have them, and learned places in spans."""

    def __init__(self, config: ModelConfig, spec: AttentionSpec, *, rngs: nnx.Rngs) -> None:
        self.embedding, self.rms = spec.position.embedding, config.init_std
        learned = self.embedding.embedding_parameters(config.dim) if self.embedding else {}
        made = {
            name: nnx.Param(p.init(rngs.params()).astype(config.param_dtype), axes=p.axes)
            for name, p in learned.items()
        }
        if config.block_positions == "learned":
            shape = (config.trained_length + 1, config.dim)
            table = config.init_std * jax.random.normal(rngs.params(), shape, config.param_dtype)
            made["block_positions"] = nnx.Param(table, axes=("positions", "embed"))
        self.learned = nnx.Dict(made)

    def __call__(self, x_BTD: jax.Array, tokens: Tokens) -> jax.Array:
        learned = {name: value[...] for name, value in self.learned.items()}
        if self.embedding is not None:
            positions_BT = tokens.positions_BT
            if positions_BT is None:
                positions_BT = jnp.arange(x_BTD.shape[1], dtype=jnp.int32)[None]
            x_BTD += self.embedding.embed(learned, positions_BT, x_BTD.shape[-1], self.rms).astype(x_BTD.dtype)
        if "block_positions" in learned:
            blocks_BT = tokens.block_positions_BT
            if blocks_BT is None:  # no spans: what all text outside of spans is trained with
                blocks_BT = jnp.zeros((1, x_BTD.shape[1]), jnp.int32)
            # NaN past the table, never a neighbour
            x_BTD += jnp.take(learned["block_positions"], blocks_BT, axis=0, mode="fill").astype(x_BTD.dtype)
        return x_BTD


class LanguageModel(nnx.Module):
    """Base of the architectures, each of which adds its stacks and says how they are wired."""

    def __init__(self, config: ModelConfig, vocab_size: int, spec: AttentionSpec, *, rngs: nnx.Rngs) -> None:
        """`spec`: of the layer that says how absolute positions enter."""
        V, D = vocab_size, config.dim
        self.config = config
        table = config.init_std * jax.random.normal(rngs.params(), (V, D), config.param_dtype)
        self.embedding = nnx.Param(table, axes=("vocab", "embed"))
        self.embed_positions = PositionEmbedding(config, spec, rngs=rngs)
        if config.norm_place == "pre":  # a post-norm block ends in a norm of its own
            self.final_norm = make_norm(config, D)
        if not config.tied_embeddings:
            self.unembedding = matrix(rngs, config, (D, V), ("embed", "vocab"), fan_in=D)

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """Token embeddings [B, T, D] in the compute dtype, without positions."""
        config = self.config
        x_BTD = self.embedding[...].astype(config.compute_dtype)[tokens_BT]
        return x_BTD * config.dim**0.5 if config.scale_embeddings else x_BTD

    def logits(self, x_BTD: jax.Array, last: int | None) -> jax.Array:
        """Float32 [B, T, V] of the stack's output; of its `last` positions only, if given."""
        config = self.config
        x_BTD = x_BTD if last is None else x_BTD[:, -last:]
        if config.norm_place == "pre":
            x_BTD = self.final_norm(x_BTD)
        if config.scale_unembedding:
            x_BTD = x_BTD * config.dim**-0.5
        unembed_DV = (self.embedding[...].T if config.tied_embeddings else self.unembedding[...]).astype(x_BTD.dtype)
        logits_BTV = jnp.einsum("BTD,DV->BTV", x_BTD, unembed_DV, preferred_element_type=jnp.float32)
        cap = config.logit_softcap
        return logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)
