"""Random models that write, texts for them, and what a written text is held against: full passes over all of it."""

import dataclasses
import functools
from collections.abc import Sequence
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import parameters

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.text import Text
from lmarch.registry import parse_variant

VOCABULARY = 48
BASE = ModelConfig(
    trained_length=16,
    num_layers=2,
    dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_dim=16,
    tied_embeddings=False,  # or a random model repeats its last token for ever
)
ARCHITECTURES = ("causal_decoder", "prefix_decoder", "encoder_decoder")
CAUSAL_OR_SLOW = [
    name if name == "causal_decoder" else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES
]
ROUNDING = 1e-5  # of logits around 1: two programs may see a tie between two tokens differently
GREEDY, DRAWN = Sampling(), Sampling(temperature=1.0)


class RandomModel:
    """A definition, random weights and their generator, with the full pass that all is held against."""

    def __init__(self, config: ModelConfig) -> None:
        self.definition = ModelDefinition(config, VOCABULARY)
        self.params: Parameters = parameters(self.definition)
        self.generator = Generator(self.definition, self.params)
        self.apply = jax.jit(self.definition.apply)

    def tokens(
        self, texts: Texts, count: int, sampling: Sampling = GREEDY, seed: int = 0, forbidden: Sequence[int] = ()
    ) -> np.ndarray:
        """Return the new tokens, [B, count]."""
        drawn = self.generator.tokens(texts, count, sampling, seed, forbidden)
        return np.stack([*islice(drawn, count)], axis=1)

    def read(self, texts: Texts, row: int, tokens: np.ndarray, width: int | None = None) -> np.ndarray:
        """Return logits [T, V] of one forward pass over a row's tokens alone.

        Args:
          width: that they are padded to, which nothing before it sees; one program then serves all rows.
        """
        options = {}
        if texts.sources is not None:
            options["source"] = Text(jnp.asarray(texts.sources[row], jnp.int32)[None])
        if texts.prefix_lengths is not None:
            options["prefix_lengths_BT"] = jnp.asarray(texts.prefix_lengths[row], jnp.int32)
        if texts.positions is not None:
            options["positions_BT"] = jnp.asarray(texts.positions[row : row + 1, : len(tokens)], jnp.int32)
        padded = np.pad(tokens, (0, (width or len(tokens)) - len(tokens)))
        return np.asarray(self.apply(self.params, jnp.asarray(padded, jnp.int32)[None], **options))[0, : len(tokens)]


@functools.cache
def random_model(architecture: str = "causal_decoder", **variants: str) -> RandomModel:
    """Return the one for all tests with these settings: what was compiled once serves them all.

    Args:
      variants: fields of the config, as on the command line; those of the encoder begin with `encoder_`.
    """
    parsed = {name: text if name == "cross_positions" else dict(parse_variant(text)) for name, text in variants.items()}
    of_encoder = {name: parsed.pop(name) for name in list(parsed) if name.startswith("encoder_")}
    encoder = EncoderConfig(**{name.removeprefix("encoder_"): value for name, value in of_encoder.items()})
    return RandomModel(dataclasses.replace(BASE, architecture=architecture, encoder=encoder, **parsed))


def random_ids(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length, np.int32) for length in lengths]


def texts_of(architecture: str, *lengths: int, seed: int = 0) -> Texts:
    """Return prompts of so many tokens; an encoder-decoder reads them with its encoder."""
    texts = random_ids(*lengths, seed=seed)
    if architecture == "encoder_decoder":
        return Texts([np.array([7], np.int32)] * len(texts), sources=texts)
    if architecture == "prefix_decoder":
        return Texts(texts, prefix_lengths=[max(1, length - 2) for length in lengths])
    return Texts(texts)


def only(texts: Texts, *rows: int) -> Texts:
    """Return those rows of a batch, in that order."""
    fields = {
        name: None if value is None else [value[row] for row in rows]
        for name, value in dataclasses.asdict(texts).items()
        if name != "positions"
    }
    return Texts(**fields)


def assert_each_is_the_most_likely_after_all_before_it(
    model: RandomModel, texts: Texts, drawn: np.ndarray, *, padded: bool = True
) -> None:
    """Hold a greedy text against one full pass over the prompt and all that was drawn.

    The pass is causal: it holds those over every beginning of the text. If each token is the argmax after what stands
    before it, the text is what repeatedly taking the argmax writes.
    """
    width = max(map(len, texts.prompts)) + drawn.shape[1] if padded else None
    for row, prompt in enumerate(texts.prompts):
        logits = model.read(texts, row, np.concatenate([prompt, drawn[row]]), width)[len(prompt) - 1 : -1]
        taken = np.take_along_axis(logits, drawn[row][:, None], axis=1)[:, 0]
        assert (logits.max(-1) - taken <= ROUNDING).all(), row
    assert len(np.unique(drawn)) > 3  # so that equal means something
