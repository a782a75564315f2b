"""T5's span corruption: spans are cut out of a text, each leaves a sentinel, and all of them are to be said in order."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lmarch.errors import UserError
from lmarch.objectives.example import Example, Sizes, Vocabulary
from lmarch.objectives.objective import ARCHITECTURES, OBJECTIVES, require
from lmarch.objectives.spans import Counts, Spans, count_noise, cut, join


@OBJECTIVES.register("span_corruption")
@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Raffel et al. 2020 (JMLR 21:140, arXiv 1910.10683), sections 3.1.4 and 3.3.4, as released.

    Of n tokens k = round(n density), at most n - 1, are noise, in s = round(k / mean_span) spans, at most n - k. Noise
    and kept tokens are each cut into s parts, every way being equally likely, and alternate, kept ones first: a text
    never begins with a span and always ends with one. Span i leaves sentinel i. With x a kept and y a noise part:

        inputs  = x_0 <0> x_1 <1> ... eos     [n - k + s + 1]
        targets = <0> y_0 <1> y_1 ... eos     [k + s + 1]

    The released code rounds in float32, here in float64.

    Raises:
      UserError: for an impossible parameter, or a text that has more spans than there are sentinels.
    """

    density: float = 0.15  # share of tokens that are noise
    mean_span: float = 3.0  # in tokens
    sentinels: int = 100
    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURES
    undefined: ClassVar[Mapping[str, str]] = {}
    overlapping: ClassVar[bool] = False
    places_in_spans: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(0 < self.density < 1, self, "density", "must be a share between 0 and 1, both excluded")
        require(self.mean_span >= 1, self, "mean_span", "must be 1 token or more")
        require(self.sentinels >= 1, self, "sentinels", "must be 1 or more")

    def special_tokens(self) -> tuple[str, ...]:
        return tuple(f"<extra_id_{i}>" for i in range(self.sentinels))

    def largest(self, length: int) -> Sizes:
        noise, spans = self._counts(length)
        return Sizes(length - noise + spans + 1, noise + spans + 1)

    def longest(self, length: int) -> int:
        return sum(self.largest(length))

    def example(self, text: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        noise, count = self._counts(len(text))
        lengths = cut(noise, count, rng)
        spans = Spans(np.cumsum(cut(len(text) - noise, count, rng)), lengths)
        assert not self._are_sentinels(text, vocabulary).any(), "a text has sentinels of its own"
        is_noise, sentinels = spans.mask(len(text)), vocabulary.first_special + np.arange(count)
        inputs = np.insert(text[~is_noise], spans.kept_before, sentinels)
        targets = np.insert(text[is_noise], spans.noise_before, sentinels)
        return Example(_ended(inputs, vocabulary), _ended(targets, vocabulary))

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        inputs, targets = example.inputs[:-1], example.targets[:-1]  # not up to an eos: a text may have its own
        marks = np.flatnonzero(self._are_sentinels(inputs, vocabulary))
        starts = np.flatnonzero(self._are_sentinels(targets, vocabulary))
        spans = Spans(marks - np.arange(len(marks)), np.diff(starts, append=len(targets)) - 1)
        return join(np.delete(inputs, marks), np.delete(targets, starts), spans)

    def _counts(self, length: int) -> Counts:
        counts = count_noise(length, self.density, self.mean_span)
        if counts.spans > self.sentinels:
            raise UserError(
                f"sentinels={self.sentinels} are too few: a text of {length} tokens has {counts.spans} spans at "
                f"density={self.density:g} and mean_span={self.mean_span:g}; write sentinels={counts.spans}"
            )
        return counts

    def _are_sentinels(self, tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        return (tokens >= vocabulary.first_special) & (tokens < vocabulary.first_special + self.sentinels)


def _ended(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    return np.concatenate([tokens, [vocabulary.eos]], dtype=np.int32)
