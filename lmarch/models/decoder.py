"""The decoders of one stream: causal (GPT, LLaMA) and prefix (GLM, ChatGLM). Embed, stack, norm, unembed."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.models.language_model import LanguageModel, Sites
from lmarch.models.layers import Tokens, laid_out
from lmarch.models.stack import Stack


class Decoder(LanguageModel):
    """Who may see whom is in the specs: a prefix decoder also needs `tokens.prefix_lengths_BT`."""

    def __init__(self, config: ModelConfig, vocab_size: int, sites: Sites, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, vocab_size, sites.decoder[0], rngs=rngs)
        self.spec = sites.decoder[0]
        self.stack = Stack(config, sites.decoder, rngs=rngs)

    def __call__(self, tokens_BT: jax.Array, tokens: Tokens, last: int | None = None) -> jax.Array:
        """Logits [B, T, V]; position t predicts token t + 1."""
        tokens = laid_out(tokens, self.spec, tokens_BT.shape[1])
        x_BTD = self.embed_positions(self.embed(tokens_BT), tokens)
        return self.logits(self.stack(x_BTD, tokens), last)

    def weights(self, tokens_BT: jax.Array, look: Callable[[Weights], Any]) -> list[Any]:
        """What `look` makes of each layer's attention weights."""
        return self.stack.weights(self.embed_positions(self.embed(tokens_BT), Tokens()), look)
