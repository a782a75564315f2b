"""What a pretraining objective is, and the registry of all of them."""

from collections.abc import Mapping
from typing import ClassVar, Protocol, get_args

import numpy as np

from lmarch.config.model import Architecture
from lmarch.errors import UserError, nearest
from lmarch.objectives.draws import Draws
from lmarch.objectives.example import Example, Examples, Sizes, Texts, Vocabulary
from lmarch.registry import Registry, Variant, label

ARCHITECTURE_NAMES: tuple[str, ...] = get_args(Architecture)


class Objective(Protocol):
    """A frozen dataclass of parameters: a pure function from pieces of text and what is drawn for each to examples."""

    architectures: ClassVar[tuple[str, ...]]  # those of ARCHITECTURE_NAMES for which it is defined
    undefined: ClassVar[Mapping[str, str]]  # the other ones: why not
    overlapping: ClassVar[bool]
    """True: rows of text share their border token, so that every token is a target once, and the inputs and targets of an
    example are the text. False: rows of text are disjoint."""
    places_in_spans: ClassVar[bool]  # whether its tokens have a second position, `fed_blocks`

    def special_tokens(self) -> tuple[str, ...]:
        """Names of the ids that it needs beyond the tokenizer's."""
        ...

    def largest(self, length: int) -> Sizes:
        """The most inputs and the most targets, each over all draws, that a text of `length` >= 2 tokens becomes.

        Neither decreases in `length`. Raises UserError for texts that are too long for it.
        """
        ...

    def longest(self, length: int) -> int:
        """The most tokens, inputs and targets of one draw together: what a decoder's row must hold.

        Less than the sum of `largest` where the draw with the most inputs is not the one with the most targets.
        """
        ...

    def examples(self, texts: Texts, vocabulary: Vocabulary, draws: Draws) -> Examples:
        """The examples made of texts of two tokens or more; each depends on its own text and its own key of `draws` alone."""
        ...

    def rebuild(self, example: Example, vocabulary: Vocabulary) -> np.ndarray:
        """The text, int32 [n], that `example` was made of."""
        ...


OBJECTIVES: Registry[Objective] = Registry("objective")


def objective_for(variant: Variant, architecture: str) -> Objective:
    """The objective of `span_corruption:density=0.3` or the like, for one of ARCHITECTURE_NAMES.

    Raises:
      UserError: an unknown name, parameter or architecture, a value that cannot be, an objective that is not defined for
        the architecture (with the reason and those that are).
    """
    if architecture not in ARCHITECTURE_NAMES:
        raise UserError(f"unknown architecture {architecture!r}; {nearest(architecture, ARCHITECTURE_NAMES)}")
    objective = OBJECTIVES.build(variant)
    if architecture not in objective.architectures:
        defined = ", ".join(name for name in OBJECTIVES if architecture in OBJECTIVES[name].architectures)
        raise UserError(
            f"{label(objective)} is not defined for {architecture}: {objective.undefined[architecture]}; "
            f"objectives that are: {defined}"
        )
    return objective
