"""One piece of text as a model is asked about it, and the ids that it is asked with."""

from typing import NamedTuple

import numpy as np


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


class Sizes(NamedTuple):
    """Numbers of tokens, or bounds of them."""

    inputs: int
    targets: int
