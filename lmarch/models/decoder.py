"""The decoders of one stream: causal (GPT, LLaMA) and prefix (GLM, ChatGLM). Embed, stack, norm, unembed."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.models.language_model import LanguageModel, Outputs, Sites
from lmarch.models.stack import Stack
from lmarch.models.text import Text


class Decoder(LanguageModel):
    """Who may see whom is in the specs: a prefix decoder also needs `text.prefix_lengths`."""

    def __init__(self, config: ModelConfig, vocab_size: int, sites: Sites, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, vocab_size, sites, rngs=rngs)
        self.stack = Stack(config, sites.decoder, rngs=rngs)

    def __call__(self, text: Text, last: int | None = None, *, other_rows: int = 0) -> Outputs:
        """Return logits [B, T, V]; position t predicts token t + 1."""
        context = text.context(self.layout, other_rows=other_rows)
        x_BTD = self.embed_positions(self.embed(text.tokens), context)
        x_BTD, added = self.stack(x_BTD, context)
        return Outputs(self.logits(x_BTD, last), added)

    def weights(self, tokens_BT: jax.Array, look: Callable[[Weights], Any]) -> list[Any]:
        """Return what `look` makes of each layer's attention weights."""
        context = Text(tokens_BT).context(self.layout)
        return self.stack.weights(self.embed_positions(self.embed(tokens_BT), context), context, look)
