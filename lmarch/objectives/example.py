"""Pieces of text as a model is asked about them, and the ids that it is asked with."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmarch.objectives.ragged import starts


class Vocabulary(NamedTuple):
    """The ids that an objective adds to a text; no text has one of `first_special` and after."""

    bos: int
    eos: int
    pad: int
    first_special: int  # ids from here on belong to the objective, in the order of its `special_tokens`


class Example(NamedTuple):
    """`inputs` are given (an encoder's text, a decoder's prefix), `targets` are to be said."""

    inputs: np.ndarray  # int32 [n]
    targets: np.ndarray  # int32 [m]
    # What follows is for objectives that do more than shift; None: what is said of it.
    fed: np.ndarray | None = None
    """int32 [m]: target j is said after reading fed[j]. None: after the target before it, the first after the last input
    (by an encoder-decoder after a start token)."""
    fed_positions: np.ndarray | None = None  # int32 [m], given if `fed` is; inputs are at 0 .. n-1
    fed_blocks: np.ndarray | None = None  # int32 [m]: GLM's second position, 1, 2, ... inside a span; inputs have 0
    scored: np.ndarray | None = None  # bool [m]: which targets are scored; None: all

    def which_scored(self) -> np.ndarray:
        """bool [m]."""
        return np.ones(len(self.targets), bool) if self.scored is None else self.scored


class Texts(NamedTuple):
    """D pieces of text, one after the other."""

    tokens: np.ndarray  # int32 [sum of lengths]
    lengths: np.ndarray  # int [D]


class Examples(NamedTuple):
    """D examples: each part of an `Example` is one flat array of all of them, one after the other.

    Either all of them have `fed`, or none.
    """

    inputs: np.ndarray
    input_lengths: np.ndarray  # int [D]
    targets: np.ndarray
    target_lengths: np.ndarray  # int [D]; also of `fed` and what follows
    fed: np.ndarray | None = None
    fed_positions: np.ndarray | None = None
    fed_blocks: np.ndarray | None = None
    scored: np.ndarray | None = None

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Examples":
        """Examples that are made one by one."""

        def joined(name: str) -> np.ndarray | None:
            parts = [getattr(example, name) for example in examples]
            assert len({part is None for part in parts}) < 2, f"some of the examples have {name}"
            return np.concatenate(parts) if parts and parts[0] is not None else None

        all_scored = all(example.scored is None for example in examples)
        nothing = np.zeros(0, np.int32)
        return cls(
            inputs=np.concatenate([nothing, *(example.inputs for example in examples)]),
            input_lengths=np.array([len(example.inputs) for example in examples], int),
            targets=np.concatenate([nothing, *(example.targets for example in examples)]),
            target_lengths=np.array([len(example.targets) for example in examples], int),
            fed=joined("fed"),
            fed_positions=joined("fed_positions"),
            fed_blocks=joined("fed_blocks"),
            scored=None if all_scored else np.concatenate([example.which_scored() for example in examples]),
        )

    def with_unasked(self, tokens_U: np.ndarray, before_U: np.ndarray) -> "Examples":
        """Single tokens, about which nothing is asked, in front of these examples (of number `before_U`, up to D)."""
        borders = np.append(starts(self.input_lengths), len(self.inputs))
        return self._replace(
            inputs=np.insert(self.inputs, borders[before_U], tokens_U),
            input_lengths=np.insert(self.input_lengths, before_U, 1),
            target_lengths=np.insert(self.target_lengths, before_U, 0),
        )


class Sizes(NamedTuple):
    """Numbers of tokens, or bounds of them."""

    inputs: int
    targets: int
