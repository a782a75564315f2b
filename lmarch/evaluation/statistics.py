"""A ratio of sums over documents, such as bits per byte, and its uncertainty: a paired cluster bootstrap.

Tokens of one document are not independent, so documents are what is resampled. `document_resamples` is drawn once for
a set of targets and given to every method and length: each resample then compares them on the same documents.

Suffixes: D documents, B bootstrap resamples.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A closed interval; an end may be infinite and is never NaN."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


def ratio(total_D: ArrayLike, size_D: ArrayLike) -> float:
    """Σ total / Σ size, such as bits of each document over its bytes; inf if any total is not finite."""
    return float(_ratio(total_D, size_D, np.ones((1, np.size(total_D)), np.int64))[0])


@functools.lru_cache(maxsize=8)  # one result row after the other asks for the same
def document_resamples(num_documents: int, seed: int, resamples: int = 2000) -> Counts:
    """How often each document is drawn in each bootstrap resample, [B, D]; every row sums to `num_documents`."""
    shares = np.full(num_documents, 1 / num_documents)
    counts_BD = np.random.default_rng(seed).multinomial(num_documents, shares, size=resamples)
    counts_BD.flags.writeable = False
    return counts_BD


def ratio_interval(total_D: ArrayLike, size_D: ArrayLike, counts_BD: Counts, level: float = 0.95) -> Interval:
    """Percentile interval of `ratio`."""
    return _percentiles(_ratio(total_D, size_D, counts_BD), level, counts_BD.shape[1])


def difference_interval(
    total_a_D: ArrayLike, total_b_D: ArrayLike, size_D: ArrayLike, counts_BD: Counts, level: float = 0.95
) -> Interval:
    """Percentile interval of the ratio of a minus that of b on the same targets, paired by resample."""
    with np.errstate(invalid="ignore"):  # inf − inf: `_percentiles` takes the NaN
        difference_B = _ratio(total_a_D, size_D, counts_BD) - _ratio(total_b_D, size_D, counts_BD)
    return _percentiles(difference_B, level, counts_BD.shape[1])


def wilson(share: float, count: int, z: float = 1.959964) -> Interval:
    """The 95 % interval of a share of `count` independent items (Wilson 1927); never empty, and inside [0, 1]."""
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def _ratio(total_D: ArrayLike, size_D: ArrayLike, counts_BD: Counts) -> Floats:
    """The ratio in each resample, [B]."""
    total_D, size_D = np.asarray(total_D, np.float64), np.asarray(size_D, np.float64)
    assert total_D.shape == size_D.shape == counts_BD.shape[1:], (total_D.shape, size_D.shape, counts_BD.shape)
    assert (size_D > 0).all(), "a document without target bytes"
    finite_D = np.isfinite(total_D)
    # Non-finite losses are counted apart: 0 · inf would spoil the resamples that leave their document out.
    total_B = counts_BD @ np.where(finite_D, total_D, 0.0)
    return np.where(counts_BD @ ~finite_D > 0, np.inf, total_B / (counts_BD @ size_D))


def _percentiles(values_B: Floats, level: float, num_documents: int) -> Interval:
    """The central `level` of the values. Its ends are order statistics, rounded outwards: interpolating beside an inf
    makes NaN. An undefined value (inf − inf) could be anything and so counts against both ends."""
    if num_documents < 2:  # one document says nothing about another
        return Interval(-math.inf, math.inf)
    undefined_B = np.isnan(values_B)
    tail = (1 - level) / 2
    low = np.quantile(np.where(undefined_B, -np.inf, values_B), tail, method="lower")
    high = np.quantile(np.where(undefined_B, np.inf, values_B), 1 - tail, method="higher")
    return Interval(float(low), float(high))
