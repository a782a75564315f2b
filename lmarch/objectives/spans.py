"""Which tokens of a text are noise: how many, in how many spans, and where."""

from typing import NamedTuple

import numpy as np


class Counts(NamedTuple):
    noise: int  # tokens
    spans: int


class Spans(NamedTuple):
    """Noise spans of a text, from left to right, no two of which touch."""

    kept_before: np.ndarray  # int [s], strictly increasing: kept tokens to the left of each
    lengths: np.ndarray  # int [s], 1 or more

    @property
    def noise_before(self) -> np.ndarray:
        """[s]: noise tokens to the left of each."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def marks(self) -> np.ndarray:
        """[s]: where each is in the text once every span is one token."""
        return self.kept_before + np.arange(len(self.lengths))

    def mask(self, length: int) -> np.ndarray:
        """bool [length]: which tokens of a text are noise."""
        inside = np.zeros(length + 1, np.int8)
        starts = self.kept_before + self.noise_before
        inside[starts] = 1
        inside[starts + self.lengths] = -1
        return np.cumsum(inside[:-1]).astype(bool)


def count_noise(length: int, density: float, mean_span: float) -> Counts:
    """T5's rule: round(length density) noise tokens in round(noise / mean_span) spans, a half going to the even number.

    At least one token and one span are noise, and at least one token per span is kept.
    """
    assert length >= 2, length
    noise = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(noise / mean_span), 1), noise, length - noise)
    return Counts(noise, spans)


def cut(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths [parts], 1 or more, that sum to `total`: each way to cut it is equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False, shuffle=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def join(kept: np.ndarray, noise: np.ndarray, spans: Spans) -> np.ndarray:
    """The text, int32, whose tokens outside of `spans` are `kept` and inside are `noise`."""
    is_noise = spans.mask(len(kept) + len(noise))
    text = np.empty(is_noise.shape, np.int32)
    text[is_noise], text[~is_noise] = noise, kept
    return text
