"""The encoder-decoder (Transformer, T5): a bidirectional stack reads the source, a causal one attends to its output."""

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.coordinates import PADDING, Coordinates, cross_coordinates, of_same_id
from lmarch.attention.key_value_cache import CrossCache
from lmarch.config import ModelConfig
from lmarch.models.language_model import LanguageModel, Outputs, PositionEmbedding, Sites
from lmarch.models.layers import make_norm
from lmarch.models.mixer import Added
from lmarch.models.stack import Stack
from lmarch.models.text import Memory, Text


class EncoderDecoder(LanguageModel):
    """Both sides share the token embeddings."""

    def __init__(self, config: ModelConfig, vocab_size: int, sites: Sites, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, vocab_size, sites, rngs=rngs)
        encoder = config.of_encoder
        self.source_layout = sites.encoder_specs[0].visibility.layout
        self.embed_source_positions = PositionEmbedding(encoder, sites.encoder_specs[0], rngs=rngs)
        self.encoder = Stack(encoder, sites.encoder, rngs=rngs)
        if config.norm_place == "pre":
            self.encoder_norm = make_norm(config, config.dim)
        self.stack = Stack(config, sites.decoder, rngs=rngs)

    def encode(self, source: Text) -> tuple[jax.Array, Added]:
        """Return the encoder's output [B, S, D], and what its layers add to the loss."""
        context = source.context(self.source_layout)
        x_BSD = self.embed_source_positions(self.embed(source.tokens), context)
        x_BSD, added = self.encoder(x_BSD, context)
        return (self.encoder_norm(x_BSD) if self.config.norm_place == "pre" else x_BSD), added

    def __call__(self, text: Text, source: Text, last: int | None = None, *, other_rows: int = 0) -> Outputs:
        """Return logits [B, T, V] of what the decoder reads; position t predicts the target after it."""
        context = text.context(self.layout, other_rows=other_rows)
        states_BSD, of_encoder = self.encode(source)
        keys_at = cross_coordinates(source.tokens.shape[1], source.positions, source.segment_ids)
        memory = Memory(states_BSD, self._queries_at(text, source, context.at, keys_at), keys_at)
        x_BTD = self.embed_positions(self.embed(text.tokens), context)
        x_BTD, added = self.stack(x_BTD, context, memory)
        return Outputs(self.logits(x_BTD, last), of_encoder + added)

    def cross_caches(self, source: Text, lengths_B: jax.Array) -> tuple[CrossCache, ...]:
        """Return what each layer of the decoder reads of sources of so many tokens; what follows those is padding."""
        real_BS = jnp.arange(source.tokens.shape[1])[None] < lengths_B[:, None]
        at = cross_coordinates(source.tokens.shape[1], source.positions, None, real=real_BS)
        states_BSD, _ = self.encode(source._replace(segment_ids=jnp.where(real_BS, 0, PADDING)))
        return self.stack.cross_caches(states_BSD, at, continuous=self.config.cross_positions == "continuous")

    def _queries_at(self, text: Text, source: Text, at: Coordinates, keys_at: Coordinates) -> Coordinates:
        """Return where the decoder's tokens are for cross-attention.

        Continuous positions are counted on from the last of the source document, each in its own.
        """
        crossing = cross_coordinates(text.tokens.shape[1], None, text.segment_ids)
        if self.config.cross_positions != "continuous":
            return crossing
        ends_BS = keys_at.where + 1
        if text.segment_ids is None or source.segment_ids is None:
            return crossing._replace(positions=at.where + ends_BS.max(axis=1, keepdims=True))
        return crossing._replace(positions=at.where + of_same_id(ends_BS, source.segment_ids, text.segment_ids, "max"))
