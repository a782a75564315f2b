"""`config.eval`: what is measured."""

import dataclasses
from typing import Literal

from lmarch.config.fields import check_seed, require_positive
from lmarch.errors import require


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What `lmarch eval` measures; its flags override these."""

    suite: Literal["smoke", "cpu", "full"] = "cpu"  # how much is measured: sizes and parts (docs/evaluation.md)
    # The text that is read. Whatever is still being chosen reads validation text; test text is for what is published (--final).
    split: Literal["validation", "test"] = "validation"
    lengths: tuple[int, ...] | None = None  # window lengths W in tokens; none: L * (1/2, 1, 2, 4, 8)
    # Where context is given and continued: the sides that it grows along. None: all three; a causal decoder has none.
    axes: tuple[Literal["prefix", "continuation", "both"], ...] | None = None
    # Position methods put on the same weights; none: what it was trained with, and for rope also linear and ntk.
    methods: tuple[str, ...] | None = None
    windows: tuple[str, ...] | None = None  # context windows, each for every method; none: as it was trained
    # Token selections, each for every method; `all`: none is made, everything in the window is seen.
    selections: tuple[str, ...] | None = None
    parts: tuple[str, ...] | None = None  # what is measured (docs/evaluation.md); none: what the suite has
    tasks: tuple[str, ...] | None = None  # synthetic tasks to ask; none: those it was trained on
    # Half-width, in bits per byte, that intervals of context gains may have: as many windows are scored as that takes (a second
    # look at the sample is announced with its cost). None: as many as the suite has.
    precision: float | None = None
    targets: int | None = None  # scored tokens a window; none: a quarter of the trained length
    seed: int = 0  # of the windows, problems and resamples that are drawn

    def __post_init__(self) -> None:
        require_positive(self, "config.eval", "targets", "precision")
        check_seed(self, "config.eval")
        for length in self.lengths or ():
            require(length > 1, "config.eval.lengths", length, "must be above 1")
