"""UL2's mixture of denoisers: span corruption from mild to extreme, and the end of a text from its beginning."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from lmarch.errors import require
from lmarch.objectives.draws import Draws
from lmarch.objectives.example import Example, Examples, Sizes, Texts, Vocabulary
from lmarch.objectives.objective import ARCHITECTURE_NAMES, OBJECTIVES
from lmarch.objectives.ragged import starts
from lmarch.objectives.span_corruption import SpanCorruption, corrupted
from lmarch.objectives.spans import Counts, count_each
from lmarch.registry import label

_MODES = ("<R>", "<S>", "<X>")
_CORRUPTIONS = (  # mode, mean span, density
    ("<X>", 3.0, 0.5),  # the one with the most spans comes first: it says how many sentinels there must be
    ("<R>", 3.0, 0.15),
    ("<R>", 8.0, 0.15),
    ("<X>", 8.0, 0.5),
    ("<X>", 64.0, 0.15),
    ("<X>", 64.0, 0.5),
)


@dataclasses.dataclass(frozen=True)
class _Sequential:
    """The last quarter of a text after the rest."""

    def largest(self, length: int) -> Sizes:
        last = max(round(length / 4), 1)
        return Sizes(length - last, last)

    def counts(self, length: int) -> Counts:
        return Counts(noise=self.largest(length).targets, spans=1)

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        return np.concatenate([example.inputs, example.targets])


class _Denoiser(NamedTuple):
    mode: str
    probability: float
    objective: SpanCorruption | _Sequential


@OBJECTIVES.register("ul2")
@dataclasses.dataclass(frozen=True)
class UL2:
    """One of seven denoisers per text (Tay et al. 2023, arXiv 2205.05131).

    R: span corruption of 15 % in spans of 3 or of 8. X: of 50 % in spans of 3, 8 or 64, or of 15 % in spans of 64.
    S: the last quarter of the text from the rest, without a sentinel or an eos. The first input says which mode it is. A
    text too short for a span of 64 has one span, by the rule of `span_corruption`, whose sentinels have the same ids.

    `regular`, `sequential` and `extreme` are the relative rates of R, S and X; those of a mode are equally likely. The
    defaults draw all seven equally often.

    Raises:
      UserError: for an impossible parameter, or a text that may have more spans than there are sentinels.
    """

    regular: float = 2.0
    sequential: float = 1.0
    extreme: float = 4.0
    sentinels: int = 100  # enough for 600 tokens
    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURE_NAMES
    undefined: ClassVar[Mapping[str, str]] = {}
    overlapping: ClassVar[bool] = False
    places_in_spans: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for rate in ("regular", "sequential", "extreme"):
            require(
                0 <= getattr(self, rate) < math.inf,
                f"{label(self)} {rate}",
                getattr(self, rate),
                "must be a rate of 0 or more",
            )
        total = self.regular + self.sequential + self.extreme
        require(
            total > 0,
            f"{label(self)} extreme",
            self.extreme,
            "must be above 0, or else `regular` or `sequential` must be",
        )
        require(self.sentinels >= 1, f"{label(self)} sentinels", self.sentinels, "must be 1 or more")

    def special_tokens(self) -> tuple[str, ...]:
        return (*SpanCorruption(sentinels=self.sentinels).special_tokens(), *_MODES)

    def largest(self, length: int) -> Sizes:
        sizes = [denoiser.objective.largest(length) for denoiser in self._denoisers]
        return Sizes(1 + max(size.inputs for size in sizes), max(size.targets for size in sizes))

    def longest(self, length: int) -> int:
        return 1 + max(sum(denoiser.objective.largest(length)) for denoiser in self._denoisers)

    def examples(self, texts: Texts, vocabulary: Vocabulary, draws: Draws) -> Examples:
        of_denoisers, of_spans = draws.split(2)
        borders = np.cumsum([denoiser.probability for denoiser in self._denoisers])[:-1]
        drawn_D = np.searchsorted(borders, of_denoisers.fractions(), side="right")
        number = len(self._denoisers)
        noise_D, spans_D = count_each(
            lambda both: self._denoisers[both % number].objective.counts(both // number),
            texts.lengths * number + drawn_D,
        )
        modes_D = np.array([self._mode_id(denoiser.mode, vocabulary) for denoiser in self._denoisers])[drawn_D]
        is_marked_D = modes_D != self._mode_id("<S>", vocabulary)
        made = corrupted(texts, noise_D, spans_D, is_marked_D, vocabulary, of_spans)
        return made._replace(
            inputs=np.insert(made.inputs, starts(made.input_lengths), modes_D), input_lengths=made.input_lengths + 1
        )

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        of_mode = {self._mode_id(denoiser.mode, vocabulary): denoiser.objective for denoiser in self._denoisers}
        objective = of_mode[int(example.inputs[0])]  # those of a mode rebuild alike
        return objective.rebuild(example._replace(inputs=example.inputs[1:]), vocabulary)

    @functools.cached_property
    def _denoisers(self) -> tuple[_Denoiser, ...]:
        """Those that can be drawn."""
        rates = dict(zip(_MODES, (self.regular, self.sequential, self.extreme), strict=True))
        objectives: list[tuple[str, SpanCorruption | _Sequential]] = [
            (mode, SpanCorruption(density, mean_span, self.sentinels)) for mode, mean_span, density in _CORRUPTIONS
        ]
        objectives.append(("<S>", _Sequential()))
        modes = [mode for mode, _ in objectives]
        total = sum(rates.values())
        shares = [rates[mode] / total / modes.count(mode) for mode in modes]
        return tuple(_Denoiser(m, share, o) for (m, o), share in zip(objectives, shares, strict=True) if share > 0)

    def _mode_id(self, mode: str, vocabulary: Vocabulary) -> int:
        return vocabulary.first_special + self.sentinels + _MODES.index(mode)
