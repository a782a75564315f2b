"""`config.eval`: what is measured."""

import dataclasses
from typing import Literal

from lmarch.config.fields import check_seed, require, require_positive


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What `eval.py` measures; its flags override these."""

    suite: Literal["smoke", "cpu", "full"] = "cpu"
    lengths: tuple[int, ...] | None = None  # none: L * (1/2, 1, 2, 4, 8)
    # Where context is given and continued: the sides that it grows along. None: all three; a causal decoder has none.
    axes: tuple[Literal["prefix", "continuation", "both"], ...] | None = None
    methods: tuple[str, ...] | None = None  # none: what it was trained with, and for rope also linear and ntk
    # Every method is measured in each of these windows and under each of these selections; none: as it was trained.
    windows: tuple[str, ...] | None = None
    selections: tuple[str, ...] | None = None  # `all`: everything that the window leaves
    parts: tuple[str, ...] | None = None  # what is measured, see evaluation/suites.py; none: what the suite has
    tasks: tuple[str, ...] | None = None  # synthetic tasks to ask; none: those it was trained on
    targets: int | None = None  # scored tokens a window; none: a quarter of the trained length
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "config.eval", "targets")
        check_seed(self, "config.eval")
        for length in self.lengths or ():
            require(length > 1, "config.eval.lengths", length, "must be above 1")
