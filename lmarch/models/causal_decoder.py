"""The causal decoder (GPT, LLaMA): embed, stack, norm, unembed."""

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig
from lmarch.models.layers import PositionEmbedding, RMSNorm, matrix
from lmarch.models.stack import Stack


class CausalDecoder(nnx.Module):
    def __init__(
        self, config: ModelConfig, vocab_size: int, specs: tuple[AttentionSpec, ...], *, rngs: nnx.Rngs
    ) -> None:
        V, D = vocab_size, config.dim
        self.config = config
        table = config.init_std * jax.random.normal(rngs.params(), (V, D), config.param_dtype)
        self.embedding = nnx.Param(table, axes=("vocab", "embed"))
        self.embed_positions = PositionEmbedding(config, specs[0], rngs=rngs)
        self.stack = Stack(config, specs, rngs=rngs)
        self.final_norm = RMSNorm(config, D, "embed")
        if not config.tied_embeddings:
            self.unembedding = matrix(rngs, config, (D, V), ("embed", "vocab"), fan_in=D)

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        last: int | None = None,
    ) -> jax.Array:
        """Logits [B, T, V] in float32; position t predicts token t + 1. `last`: of the last so many positions only."""
        table_VD = self.embedding[...].astype(self.config.compute_dtype)
        x_BTD = self.embed_positions(table_VD[tokens_BT], positions_BT)
        x_BTD = self.stack(x_BTD, positions_BT, segment_ids_BT)
        x_BTD = self.final_norm(x_BTD if last is None else x_BTD[:, -last:])
        unembed_DV = table_VD.T if self.config.tied_embeddings else self.unembedding[...].astype(x_BTD.dtype)
        return jnp.einsum("BTD,DV->BTV", x_BTD, unembed_DV, preferred_element_type=jnp.float32)
