"""Which tokens of texts are noise: how many, in how many spans, and where."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lmarch.objectives.draws import Draws
from lmarch.objectives.ragged import starts


class Counts(NamedTuple):
    noise: int  # tokens
    spans: int


class Spans(NamedTuple):
    """Noise spans of a text, from left to right, no two of which touch."""

    kept_before: np.ndarray  # int [s], strictly increasing: kept tokens to the left of each
    lengths: np.ndarray  # int [s], 1 or more

    def mask(self, length: int) -> np.ndarray:
        """bool [length]: which tokens of a text are noise."""
        return inside(self.kept_before + starts(self.lengths), self.lengths, length)


@functools.lru_cache(2**16)
def count_noise(length: int, density: float, mean_span: float) -> Counts:
    """T5's rule: round(length density) noise tokens in round(noise / mean_span) spans, a half going to the even number.

    At least one token and one span are noise, and at least one token per span is kept.
    """
    assert length >= 2, length
    noise = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(noise / mean_span), 1), noise, length - noise)
    return Counts(noise, spans)


def count_each(count: Callable[[int], Counts], lengths_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Noise tokens and spans, int [D] each, by what `count` says of each length, which it is asked once."""
    distinct, which_D = np.unique(lengths_D, return_inverse=True)
    counts = np.array([count(int(length)) for length in distinct], int).reshape(-1, 2)[which_D]
    return counts[:, 0], counts[:, 1]


def cut(totals_D: np.ndarray, parts_D: np.ndarray, draws: Draws) -> np.ndarray:
    """Lengths [sum of parts], 1 or more, of the parts that D totals are cut into: each way to cut one is equally likely.

    Args:
      parts_D: 1 or more, and at most as many as the total.
    """
    begins = draws.chosen(totals_D, parts_D, with_first=True)
    return np.diff(np.flatnonzero(begins), append=len(begins))


def inside(starts_S: np.ndarray, lengths_S: np.ndarray, total: int) -> np.ndarray:
    """bool [total]: what is in one of the stretches that begin there and are so long; they do not overlap."""
    change = np.bincount(starts_S, minlength=total + 1) - np.bincount(starts_S + lengths_S, minlength=total + 1)
    return np.cumsum(change[:-1]).astype(bool)


def join(kept: np.ndarray, noise: np.ndarray, spans: Spans) -> np.ndarray:
    """The text, int32, whose tokens outside of `spans` are `kept` and inside are `noise`."""
    is_noise = spans.mask(len(kept) + len(noise))
    text = np.empty(is_noise.shape, np.int32)
    text[is_noise], text[~is_noise] = noise, kept
    return text
