"""The encoder-decoder (Transformer, T5): a bidirectional stack reads the source, a causal one attends to its output."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.places import NOWHERE, make_places
from lmarch.config import ModelConfig
from lmarch.models.cache import Encoded
from lmarch.models.language_model import LanguageModel, PositionEmbedding, Sites
from lmarch.models.layers import Memory, Tokens, laid_out
from lmarch.models.norms import make_norm
from lmarch.models.stack import Stack


class Source(NamedTuple):
    """What the encoder reads: tokens [B, S] and where they are."""

    tokens_BS: jax.Array
    tokens: Tokens = Tokens()


class EncoderDecoder(LanguageModel):
    """Both sides share the token embeddings."""

    def __init__(self, config: ModelConfig, vocab_size: int, sites: Sites, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, vocab_size, sites.decoder[0], rngs=rngs)
        self.sites, encoder = sites, config.of_encoder
        self.embed_source_positions = PositionEmbedding(encoder, sites.encoder[0], rngs=rngs)
        self.encoder = Stack(encoder, sites.encoder, rngs=rngs)
        if config.norm_place == "pre":
            self.encoder_norm = make_norm(config, config.dim)
        self.stack = Stack(config, sites.decoder, sites.cross, rngs=rngs)

    def encode(self, source: Source) -> jax.Array:
        """[B, S, D]."""
        tokens = laid_out(source.tokens, self.sites.encoder[0], source.tokens_BS.shape[1])
        x_BSD = self.embed_source_positions(self.embed(source.tokens_BS), tokens)
        x_BSD = self.encoder(x_BSD, tokens)
        return self.encoder_norm(x_BSD) if self.config.norm_place == "pre" else x_BSD

    def __call__(self, tokens_BT: jax.Array, tokens: Tokens, source: Source, last: int | None = None) -> jax.Array:
        """Logits [B, T, V] of what the decoder reads; position t predicts the target after it."""
        tokens = laid_out(tokens, self.sites.decoder[0], tokens_BT.shape[1])
        where = self._among_source(tokens_BT, tokens, source) if self.config.cross_positions == "continuous" else None
        memory = Memory(self.encode(source), source.tokens, where)
        x_BTD = self.embed_positions(self.embed(tokens_BT), tokens)
        return self.logits(self.stack(x_BTD, tokens, memory), last)

    def encoded(self, source: Source, lengths_B: jax.Array) -> tuple[Encoded, ...]:
        """What each layer of the decoder reads of sources of so many tokens; what follows those is padding."""
        at = make_places(source.tokens_BS.shape[1], source.tokens.positions_BT)
        real_BS = at.indices < lengths_B[:, None]
        at = at._replace(indices=jnp.where(real_BS, at.indices, NOWHERE))
        padded = source.tokens._replace(segment_ids_BT=jnp.where(real_BS, 0, NOWHERE))
        states_BSD = self.encode(source._replace(tokens=padded))
        return self.stack.encoded(states_BSD, at, self.config.cross_positions == "continuous")

    @staticmethod
    def _among_source(tokens_BT: jax.Array, tokens: Tokens, source: Source) -> jax.Array:
        """The decoder's positions counted on from the last of the source document, int32 [B, T]."""
        length = tokens_BT.shape[1]
        positions_BT, positions_BS = (
            jnp.arange(size, dtype=jnp.int32)[None] if given is None else given
            for given, size in ((tokens.positions_BT, length), (source.tokens.positions_BT, source.tokens_BS.shape[1]))
        )
        ids_BT, ids_BS = tokens.segment_ids_BT, source.tokens.segment_ids_BT
        if ids_BT is None or ids_BS is None:
            return positions_BT + positions_BS.max(axis=1, keepdims=True) + 1
        own_BTS = ids_BT[:, :, None] == ids_BS[:, None, :]
        return positions_BT + jnp.where(own_BTS, positions_BS[:, None] + 1, 0).max(-1)
