"""GLM's blank infilling: spans are replaced by masks and said afterwards, in any order, as a part of the same stream."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lmarch.errors import require
from lmarch.objectives.draws import Draws
from lmarch.objectives.example import Example, Examples, Sizes, Texts, Vocabulary
from lmarch.objectives.objective import OBJECTIVES
from lmarch.objectives.ragged import counted, starts
from lmarch.objectives.spans import Counts, Spans, count_each, count_noise, inside, join
from lmarch.registry import label

_MASK, _LONG_MASK, _START, _END = range(4)  # in the order of `special_tokens`


@OBJECTIVES.register("blank_infilling")
@dataclasses.dataclass(frozen=True)
class BlankInfilling:
    """Du et al. 2022 (arXiv 2103.10360), sections 2.1 and 2.2, without sentence-level spans.

    Part A is the text with each span replaced by [MASK]; Part B says the spans, in an order drawn uniformly, each read
    as [sop] x_1 .. x_l and answered x_1 .. x_l [eop]. Part A has positions 0, 1, ...; all of a span in Part B has that of
    its mask. The second position (`fed_blocks`) is 0 in Part A and 1 .. l + 1 in a span.

    A share `long` of texts has one span, at the end, whose length is uniform on ceil(n/2) .. n-1 and whose mask is
    [gMASK] (the generation mode of ChatGLM). The others have several. GLM draws lengths from Poisson(3) until 15 % of
    the text is noise; here k tokens in s spans are drawn as in `span_corruption`, so that sizes are known beforehand, and
    their lengths are 1 + multinomial(k - s): one plus Poisson variables, conditioned on their sum. Places are uniform
    among those where no two spans touch; a text may begin or end with one.

    Raises:
      UserError: for an impossible parameter.
    """

    density: float = 0.15  # share of tokens that are noise, where spans are short
    mean_span: float = 3.0  # in tokens
    long: float = 0.5
    architectures: ClassVar[tuple[str, ...]] = ("prefix_decoder",)
    undefined: ClassVar[Mapping[str, str]] = {
        "causal_decoder": "spans lie before what was read before them, and causal positions know no such distances",
        "encoder_decoder": "its spans are ordered by two positions in one stream, which holds the text too",
    }
    overlapping: ClassVar[bool] = False
    places_in_spans: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(
            0 < self.density < 1,
            f"{label(self)} density",
            self.density,
            "must be a share between 0 and 1, both excluded",
        )
        require(self.mean_span >= 1, f"{label(self)} mean_span", self.mean_span, "must be 1 token or more")
        require(0 <= self.long <= 1, f"{label(self)} long", self.long, "must be a share between 0 and 1")

    def special_tokens(self) -> tuple[str, ...]:
        return ("[MASK]", "[gMASK]", "[sop]", "[eop]")

    def largest(self, length: int) -> Sizes:
        noise, spans = self._counts(length)
        sizes = [Sizes(length - noise + spans, noise + spans)] * (self.long < 1)
        sizes += [Sizes(length - _half(length) + 1, length)] * (self.long > 0)
        return Sizes(max(size.inputs for size in sizes), max(size.targets for size in sizes))

    def longest(self, length: int) -> int:
        spans = self._counts(length).spans if self.long < 1 else 1
        return length + 2 * spans  # a mask and an end for each; both kinds of draw have one span or more

    def examples(self, texts: Texts, vocabulary: Vocabulary, draws: Draws) -> Examples:
        of_kinds, of_long, of_places, of_lengths, of_order = draws.split(5)
        is_long_D = of_kinds.fractions() < self.long
        noise_D, spans_D = count_each(self._counts, texts.lengths)
        half_D = _half(texts.lengths)
        noise_D = np.where(is_long_D, half_D + of_long.integers(texts.lengths - half_D), noise_D)
        spans_D = np.where(is_long_D, 1, spans_D)
        kept_D = texts.lengths - noise_D

        is_place = of_places.chosen(kept_D + 1, spans_D)  # before a kept token, or behind the last
        is_long_S, places_S = np.repeat(is_long_D, spans_D), counted(kept_D + 1)[is_place]
        kept_before_S = np.where(is_long_S, np.repeat(kept_D, spans_D), places_S)
        extra_D = noise_D - spans_D  # tokens beyond the first of each span, each of which falls into any span
        into = (of_lengths.each_of(extra_D) * np.repeat(spans_D, extra_D)).astype(int)
        lengths_S = 1 + np.bincount(into + np.repeat(starts(spans_D), extra_D), minlength=spans_D.sum())
        order_S = of_order.shuffled(spans_D)

        in_kept_S = np.repeat(starts(kept_D), spans_D) + kept_before_S
        in_noise_S = starts(lengths_S)
        is_noise = inside(in_kept_S + in_noise_S, lengths_S, len(texts.tokens))
        masks_S = vocabulary.first_special + np.where(is_long_S, _LONG_MASK, _MASK)
        read_S, marks_S = lengths_S[order_S], (kept_before_S + counted(spans_D))[order_S]
        said = texts.tokens[is_noise][np.repeat(in_noise_S[order_S], read_S) + counted(read_S)]
        return Examples(
            inputs=np.insert(texts.tokens[~is_noise], in_kept_S, masks_S),
            input_lengths=kept_D + spans_D,
            targets=np.insert(said, np.cumsum(read_S), vocabulary.first_special + _END),
            target_lengths=noise_D + spans_D,
            fed=np.insert(said, starts(read_S), vocabulary.first_special + _START),
            fed_positions=np.repeat(marks_S, read_S + 1).astype(np.int32),
            fed_blocks=counted(read_S + 1) + np.int32(1),
        )

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        assert example.fed_positions is not None
        assert example.fed_blocks is not None
        begins = np.flatnonzero(example.fed_blocks == 1)
        said = [part[:-1] for part in np.split(example.targets, begins[1:])]
        order = np.argsort(example.fed_positions[begins])
        marks = example.fed_positions[begins][order]
        spans = Spans(marks - np.arange(len(marks)), np.asarray([len(said[i]) for i in order]))
        return join(np.delete(example.inputs, marks), np.concatenate([said[i] for i in order]), spans)

    def _counts(self, length: int) -> Counts:
        return count_noise(length, self.density, self.mean_span)


def _half(length: Any) -> Any:
    """Half of a length, or of each of several, rounded up."""
    return -(-length // 2)
