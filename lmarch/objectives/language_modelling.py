"""Language modelling: what comes next, after one token or after a prefix of random length."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from lmarch.objectives.example import Example, Sizes, Vocabulary
from lmarch.objectives.objective import ARCHITECTURES, OBJECTIVES


class _Shifted:
    """Inputs and targets are the text, cut once."""

    overlapping: ClassVar[bool] = True
    places_in_spans: ClassVar[bool] = False

    def special_tokens(self) -> tuple[str, ...]:
        return ()

    def longest(self, length: int) -> int:
        return length

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        return np.concatenate([example.inputs, example.targets])


@OBJECTIVES.register("causal_lm")
@dataclasses.dataclass(frozen=True)
class CausalLM(_Shifted):
    """Every token from those before it; with `loss=suffix` only those after a uniformly drawn split are scored.

    The split is that of `prefix_lm`. A prefix decoder sees a prefix of one token, which is causal; with `loss=suffix` it
    sees what `prefix_lm` shows it.
    """

    loss: Literal["all", "suffix"] = "all"
    architectures: ClassVar[tuple[str, ...]] = ("causal_decoder", "prefix_decoder")
    undefined: ClassVar[Mapping[str, str]] = {
        "encoder_decoder": "the encoder would be given nothing but the first token"
    }

    def largest(self, length: int) -> Sizes:
        return Sizes(1 if self.loss == "all" else length - 1, length - 1)

    def example(self, text: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        split = 1 if self.loss == "all" else _draw_split(text, rng)
        return Example(text[:split], text[split:])


@OBJECTIVES.register("prefix_lm")
@dataclasses.dataclass(frozen=True)
class PrefixLM(_Shifted):
    """The rest of a text after its first P tokens, P uniform on 1 .. n-1 (Raffel et al. 2020, JMLR 21:140, section 3.2).

    A prefix decoder and an encoder see all of the prefix from each of its tokens; a causal decoder sees it causally.
    """

    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURES
    undefined: ClassVar[Mapping[str, str]] = {}

    def largest(self, length: int) -> Sizes:
        return Sizes(length - 1, length - 1)

    def example(self, text: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        split = _draw_split(text, rng)
        return Example(text[:split], text[split:])


def _draw_split(text: np.ndarray, rng: np.random.Generator) -> int:
    assert len(text) >= 2, text
    return int(rng.integers(1, len(text)))
