"""T5's span corruption: spans are cut out of a text, each leaves a sentinel, and all of them are to be said in order."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lmarch.errors import UserError, require
from lmarch.objectives.draws import Draws
from lmarch.objectives.example import Example, Examples, Sizes, Texts, Vocabulary
from lmarch.objectives.objective import ARCHITECTURE_NAMES, OBJECTIVES
from lmarch.objectives.ragged import counted, starts
from lmarch.objectives.spans import Counts, Spans, count_each, count_noise, cut, join
from lmarch.registry import label


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
    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURE_NAMES
    undefined: ClassVar[Mapping[str, str]] = {}
    overlapping: ClassVar[bool] = False
    places_in_spans: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(
            0 < self.density < 1,
            f"{label(self)} density",
            self.density,
            "must be a share between 0 and 1, both excluded",
        )
        require(self.mean_span >= 1, f"{label(self)} mean_span", self.mean_span, "must be 1 token or more")
        require(self.sentinels >= 1, f"{label(self)} sentinels", self.sentinels, "must be 1 or more")

    def special_tokens(self) -> tuple[str, ...]:
        return tuple(f"<extra_id_{i}>" for i in range(self.sentinels))

    def largest(self, length: int) -> Sizes:
        noise, spans = self.counts(length)
        return Sizes(length - noise + spans + 1, noise + spans + 1)

    def longest(self, length: int) -> int:
        return sum(self.largest(length))

    def examples(self, texts: Texts, vocabulary: Vocabulary, draws: Draws) -> Examples:
        noise_D, spans_D = count_each(self.counts, texts.lengths)
        return corrupted(texts, noise_D, spans_D, np.ones_like(spans_D, bool), vocabulary, draws)

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        inputs, targets = example.inputs[:-1], example.targets[:-1]  # not up to an eos: a text may have its own
        marks = np.flatnonzero(self._are_sentinels(inputs, vocabulary))
        begins = np.flatnonzero(self._are_sentinels(targets, vocabulary))
        spans = Spans(marks - np.arange(len(marks)), np.diff(begins, append=len(targets)) - 1)
        return join(np.delete(inputs, marks), np.delete(targets, begins), spans)

    def counts(self, length: int) -> Counts:
        """Noise tokens and spans of a text of so many tokens.

        Raises:
          UserError: more spans than there are sentinels.
        """
        counts = count_noise(length, self.density, self.mean_span)
        if counts.spans > self.sentinels:
            raise UserError(
                f"sentinels={self.sentinels} are too few: a text of {length} tokens has {counts.spans} spans at "
                f"density={self.density:g} and mean_span={self.mean_span:g}; write sentinels={counts.spans}"
            )
        return counts

    def _are_sentinels(self, tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        return (tokens >= vocabulary.first_special) & (tokens < vocabulary.first_special + self.sentinels)


def corrupted(
    texts: Texts,
    noise_D: np.ndarray,
    spans_D: np.ndarray,
    is_marked_D: np.ndarray,
    vocabulary: Vocabulary,
    draws: Draws,
) -> Examples:
    """Kept and noise parts of each text in turn, kept ones first, cut in any way, all ways being equally likely.

    Args:
      noise_D: how many tokens of each text are noise.
      spans_D: into how many parts they, and the kept ones, are cut.
      is_marked_D: whether a text has sentinels, and an eos at the end of either side.
    """
    assert (texts.tokens < vocabulary.first_special).all(), "a text has sentinels of its own"
    kept_D, marks_D = texts.lengths - noise_D, (spans_D + 1) * is_marked_D
    of_kept, of_noise = draws.split(2)
    cuts = cut(np.concatenate([kept_D, noise_D]), np.concatenate([spans_D, spans_D]), of_kept.joined(of_noise))
    kept_S, noise_S = cuts.reshape(2, -1)
    is_noise = np.repeat(np.arange(len(cuts)) % 2 == 1, cuts.reshape(2, -1).T.ravel())
    is_marked_S = np.repeat(is_marked_D, spans_D)
    sentinels = vocabulary.first_special + counted(spans_D)[is_marked_S]
    ends = np.full(is_marked_D.sum(), vocabulary.eos)
    # Of two marks at one place the first given comes first: of inputs the sentinel, of targets the eos of the text before.
    after_kept = np.concatenate([np.cumsum(kept_S)[is_marked_S], np.cumsum(kept_D)[is_marked_D]])
    before_noise = np.concatenate([np.cumsum(noise_D)[is_marked_D], starts(noise_S)[is_marked_S]])
    return Examples(
        inputs=np.insert(texts.tokens[~is_noise], after_kept, np.concatenate([sentinels, ends])),
        input_lengths=kept_D + marks_D,
        targets=np.insert(texts.tokens[is_noise], before_noise, np.concatenate([ends, sentinels])),
        target_lengths=noise_D + marks_D,
    )
