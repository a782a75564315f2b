"""GLM's blank infilling: spans are replaced by masks and said afterwards, in any order, as a part of the same stream."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lmarch.objectives.example import Example, Sizes, Vocabulary
from lmarch.objectives.objective import OBJECTIVES, require
from lmarch.objectives.spans import Spans, count_noise, join

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
        require(0 < self.density < 1, self, "density", "must be a share between 0 and 1, both excluded")
        require(self.mean_span >= 1, self, "mean_span", "must be 1 token or more")
        require(0 <= self.long <= 1, self, "long", "must be a share between 0 and 1")

    def special_tokens(self) -> tuple[str, ...]:
        return ("[MASK]", "[gMASK]", "[sop]", "[eop]")

    def largest(self, length: int) -> Sizes:
        noise, spans = count_noise(length, self.density, self.mean_span)
        sizes = [Sizes(length - noise + spans, noise + spans)] * (self.long < 1)
        sizes += [Sizes(length - _half(length) + 1, length)] * (self.long > 0)
        return Sizes(max(size.inputs for size in sizes), max(size.targets for size in sizes))

    def longest(self, length: int) -> int:
        spans = count_noise(length, self.density, self.mean_span).spans if self.long < 1 else 1
        return length + 2 * spans  # a mask and an end for each; both kinds of draw have one span or more

    def example(self, text: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        is_long = rng.random() < self.long
        spans = _long_span(len(text), rng) if is_long else self._short_spans(len(text), rng)
        order = rng.permutation(len(spans.lengths))
        mask = vocabulary.first_special + (_LONG_MASK if is_long else _MASK)
        start, end = vocabulary.first_special + _START, vocabulary.first_special + _END
        is_noise = spans.mask(len(text))
        said = np.split(text[is_noise], spans.noise_before[1:])
        lengths = spans.lengths[order] + 1
        return Example(
            inputs=np.insert(text[~is_noise], spans.kept_before, mask),
            targets=np.concatenate([part for i in order for part in (said[i], [end])], dtype=np.int32),
            fed=np.concatenate([part for i in order for part in ([start], said[i])], dtype=np.int32),
            fed_positions=np.repeat(spans.marks[order], lengths).astype(np.int32),
            fed_blocks=np.concatenate([np.arange(1, length + 1, dtype=np.int32) for length in lengths]),
        )

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        assert example.fed_positions is not None
        assert example.fed_blocks is not None
        starts = np.flatnonzero(example.fed_blocks == 1)
        said = [part[:-1] for part in np.split(example.targets, starts[1:])]
        order = np.argsort(example.fed_positions[starts])
        marks = example.fed_positions[starts][order]
        spans = Spans(marks - np.arange(len(marks)), np.asarray([len(said[i]) for i in order]))
        return join(np.delete(example.inputs, marks), np.concatenate([said[i] for i in order]), spans)

    def _short_spans(self, length: int, rng: np.random.Generator) -> Spans:
        noise, count = count_noise(length, self.density, self.mean_span)
        kept_before = np.sort(rng.choice(length - noise + 1, count, replace=False, shuffle=False))
        return Spans(kept_before, 1 + rng.multinomial(noise - count, np.full(count, 1 / count)))


def _long_span(length: int, rng: np.random.Generator) -> Spans:
    noise = rng.integers(_half(length), length)
    return Spans(np.asarray([length - noise]), np.asarray([noise]))


def _half(length: int) -> int:
    return -(-length // 2)
