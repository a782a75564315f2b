"""Language modelling: what comes next, after one token or after a prefix of random length."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from lmarch.objectives.draws import Draws
from lmarch.objectives.example import Example, Examples, Sizes, Texts, Vocabulary
from lmarch.objectives.objective import ARCHITECTURE_NAMES, OBJECTIVES
from lmarch.objectives.ragged import counted


class _Shifted:
    """Inputs and targets are the text, cut once."""

    overlapping: ClassVar[bool] = True
    places_in_spans: ClassVar[bool] = False

    def special_tokens(self) -> tuple[str, ...]:
        return ()

    def longest(self, length: int) -> int:
        return length

    def examples(self, texts: Texts, vocabulary: Vocabulary, draws: Draws) -> Examples:
        splits_D = self._splits(texts.lengths, draws)
        is_input = counted(texts.lengths) < np.repeat(splits_D, texts.lengths)
        return Examples(texts.tokens[is_input], splits_D, texts.tokens[~is_input], texts.lengths - splits_D)

    def _splits(self, lengths_D: np.ndarray, draws: Draws) -> np.ndarray:
        """How many tokens of each text are inputs, uniform on 1 .. n-1."""
        return 1 + draws.integers(lengths_D - 1)

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

    def _splits(self, lengths_D: np.ndarray, draws: Draws) -> np.ndarray:
        return np.ones_like(lengths_D) if self.loss == "all" else super()._splits(lengths_D, draws)


@OBJECTIVES.register("prefix_lm")
@dataclasses.dataclass(frozen=True)
class PrefixLM(_Shifted):
    """The rest of a text after its first P tokens, P uniform on 1 .. n-1 (Raffel et al. 2020, JMLR 21:140, section 3.2).

    A prefix decoder and an encoder see all of the prefix from each of its tokens; a causal decoder sees it causally.
    """

    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURE_NAMES
    undefined: ClassVar[Mapping[str, str]] = {}

    def largest(self, length: int) -> Sizes:
        return Sizes(length - 1, length - 1)
