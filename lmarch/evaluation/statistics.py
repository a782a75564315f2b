"""Bits per byte and its uncertainty: a paired cluster bootstrap over documents.

Tokens of one document are not independent, so documents are what is resampled. `document_resamples` is drawn once for
a set of targets and given to every method and length: each resample then compares them on the same documents.

Suffixes: D documents, B bootstrap resamples.
"""

import dataclasses
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


def bits_per_byte(nll_D: ArrayLike, bytes_D: ArrayLike) -> float:
    """Σ nll / (ln 2 · Σ bytes), a document's loss in nats over its target bytes; inf if any loss is not finite."""
    return float(_ratio(nll_D, bytes_D, np.ones((1, np.size(nll_D)), np.int64))[0])


def document_resamples(num_documents: int, seed: int, resamples: int = 2000) -> Counts:
    """How often each document is drawn in each bootstrap resample, [B, D]; every row sums to `num_documents`."""
    return np.random.default_rng(seed).multinomial(
        num_documents, np.full(num_documents, 1 / num_documents), size=resamples
    )


def ratio_interval(nll_D: ArrayLike, bytes_D: ArrayLike, counts_BD: Counts, level: float = 0.95) -> Interval:
    """Percentile interval of `bits_per_byte`."""
    return _percentiles(_ratio(nll_D, bytes_D, counts_BD), level, counts_BD.shape[1])


def difference_interval(
    nll_a_D: ArrayLike, nll_b_D: ArrayLike, bytes_D: ArrayLike, counts_BD: Counts, level: float = 0.95
) -> Interval:
    """Percentile interval of bits per byte of a minus those of b on the same targets, paired by resample."""
    with np.errstate(invalid="ignore"):  # inf − inf: `_percentiles` takes the NaN
        difference_B = _ratio(nll_a_D, bytes_D, counts_BD) - _ratio(nll_b_D, bytes_D, counts_BD)
    return _percentiles(difference_B, level, counts_BD.shape[1])


def _ratio(nll_D: ArrayLike, bytes_D: ArrayLike, counts_BD: Counts) -> Floats:
    """Bits per byte of each resample, [B]."""
    nll_D, bytes_D = np.asarray(nll_D, np.float64), np.asarray(bytes_D, np.float64)
    assert nll_D.shape == bytes_D.shape == counts_BD.shape[1:], (nll_D.shape, bytes_D.shape, counts_BD.shape)
    assert (bytes_D > 0).all(), "a document without target bytes"
    finite_D = np.isfinite(nll_D)
    # Non-finite losses are counted apart: 0 · inf would spoil the resamples that leave their document out.
    bits_B = counts_BD @ np.where(finite_D, nll_D, 0.0) / math.log(2)
    return np.where(counts_BD @ ~finite_D > 0, np.inf, bits_B / (counts_BD @ bytes_D))


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
