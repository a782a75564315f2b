"""A ratio of sums over documents, such as bits per byte, and how far from it the truth may lie.

Three intervals, each for a question of its own:

- *over documents*: would other documents say the same of these models? Tokens of one document are not independent, so whole
  documents are resampled; `document_resamples` is drawn once for a set of targets and given to every method and length, so
  that each resample compares them on the same documents. The interval is the studentized bootstrap's (Efron and Tibshirani
  1993, section 12.5), which is right for fewer and more skewed documents than percentiles are.
- *over seeds*: would other training runs say the same on these documents? Student's t over the runs.
- *over both*: the two joined by their recovered variances (MOVER; Zou and Donner 2008), which keeps the skew of the first.

`tests/evaluation/test_coverage.py` measures how often each holds the truth.

Suffixes: D documents, B bootstrap resamples, S training seeds.
"""

import dataclasses
import functools
import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

RESAMPLES = 2000
SMALLEST_P = 2 / RESAMPLES  # no tail of the resamples is thinner


@dataclasses.dataclass(frozen=True)
class Interval:
    """A closed interval; an end may be infinite and is never NaN."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high

    @property
    def half_width(self) -> float:
        """0 also of two equal infinities."""
        return 0.0 if self.low == self.high else (self.high - self.low) / 2


EVERYTHING = Interval(-math.inf, math.inf)


def ratio(total_D: ArrayLike, size_D: ArrayLike) -> float:
    """Σ total / Σ size, such as bits of each document over its bytes; inf if any total is not finite."""
    return float(_ratio(total_D, size_D, np.ones((1, np.size(total_D)), np.int64))[0])


@functools.lru_cache(maxsize=8)  # one result row after the other asks for the same
def document_resamples(num_documents: int, seed: int, resamples: int = RESAMPLES) -> Counts:
    """How often each document is drawn in each bootstrap resample, [B, D]; every row sums to `num_documents`."""
    shares = np.full(num_documents, 1 / num_documents)
    counts_BD = np.random.default_rng(seed).multinomial(num_documents, shares, size=resamples)
    counts_BD.flags.writeable = False
    return counts_BD


def ratio_interval(total_D: ArrayLike, size_D: ArrayLike, counts_BD: Counts, level: float = 0.95) -> Interval:
    """Over documents: of `ratio`. Two or three documents bound nothing, for their resamples are often all one document."""
    return _Studentized.of(total_D, size_D, counts_BD).interval(level)


def difference_interval(
    total_a_D: ArrayLike, total_b_D: ArrayLike, size_D: ArrayLike, counts_BD: Counts, level: float = 0.95
) -> Interval:
    """Over documents: of the ratio of a minus that of b on the same targets, paired by resample."""
    a_D, b_D = np.asarray(total_a_D, np.float64), np.asarray(total_b_D, np.float64)
    if np.isfinite(a_D).all() and np.isfinite(b_D).all():
        return ratio_interval(a_D - b_D, size_D, counts_BD, level)
    if len(a_D) < 2:
        return EVERYTHING
    with np.errstate(invalid="ignore"):  # inf − inf: `_percentiles` takes the NaN
        return _percentiles(_ratio(a_D, size_D, counts_BD) - _ratio(b_D, size_D, counts_BD), level)


def seeds_interval(values_S: ArrayLike, level: float = 0.95) -> Interval:
    """Over seeds: Student's t of the mean of one value a training run; of a single run nothing is known."""
    values_S = np.asarray(values_S, np.float64)
    if len(values_S) < 2 or not np.isfinite(values_S).all():
        return EVERYTHING
    mean, half = float(values_S.mean()), _half_width_of_seeds(values_S, level)
    return Interval(mean - half, mean + half)


class ByLevel(Protocol):
    """What has an interval at every level."""

    def interval(self, level: float) -> Interval: ...


@dataclasses.dataclass(frozen=True)
class OverBoth:
    """What is known of a mean over training runs and documents, each of the runs scored on each of the documents."""

    value: float
    seeds_S: Floats  # the ratio of each run
    documents: ByLevel  # of the mean over runs

    @classmethod
    def of(cls, total_SD: ArrayLike, size_D: ArrayLike, counts_BD: Counts) -> "OverBoth":
        """Of totals, or of differences of totals, of every run and document."""
        total_SD = np.asarray(total_SD, np.float64)
        mean_D = total_SD.mean(0)
        seeds_S = np.array([ratio(total_D, size_D) for total_D in total_SD])
        return cls(ratio(mean_D, size_D), seeds_S, _Studentized.of(mean_D, size_D, counts_BD))

    def interval(self, level: float = 0.95) -> Interval:
        """The squared distances from the value to either limit add up (MOVER)."""
        if len(self.seeds_S) < 2 or not np.isfinite(self.seeds_S).all():
            return EVERYTHING
        seeds, documents = _half_width_of_seeds(self.seeds_S, level), self.documents.interval(level)
        below = math.hypot(seeds, self.value - documents.low)
        above = math.hypot(seeds, documents.high - self.value)
        return Interval(self.value - below, self.value + above)

    def p_value(self, value: float = 0.0) -> float:
        """Two-sided: one minus the level of the widest interval that excludes `value`; never below SMALLEST_P."""
        if not self.interval(0.0).excludes(value):
            return 1.0
        excluded, held = 0.0, 1 - SMALLEST_P
        if self.interval(held).excludes(value):
            return SMALLEST_P
        for _ in range(20):  # to a millionth
            level = (excluded + held) / 2
            excluded, held = (level, held) if self.interval(level).excludes(value) else (excluded, level)
        return 1 - excluded


def holm(p_values: ArrayLike) -> Floats:
    """p values of several tests, each so enlarged that all of them together err as seldom as one would (Holm 1979)."""
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    enlarged = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values), np.float64)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(enlarged))
    return adjusted


def wilson(share: float, count: int, z: float = 1.959964) -> Interval:
    """The 95 % interval of a share of `count` independent items (Wilson 1927); never empty, and inside [0, 1]."""
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


@dataclasses.dataclass(frozen=True)
class _Studentized:
    """A ratio, its standard error, and how the one strays in units of the other over resamples of documents."""

    value: float
    error: float  # inf: not known
    strays_B: Floats  # (ratio of a resample - value) / standard error of the resample
    values_B: Floats  # ratios of the resamples where a total is not finite, else empty

    @classmethod
    def of(cls, total_D: ArrayLike, size_D: ArrayLike, counts_BD: Counts) -> "_Studentized":
        total_D, size_D = np.asarray(total_D, np.float64), np.asarray(size_D, np.float64)
        value, nothing = ratio(total_D, size_D), np.zeros(0)
        if len(total_D) < 2:  # one document says nothing about another
            return cls(value, math.inf, nothing, nothing)
        if not np.isfinite(total_D).all():
            return cls(value, math.inf, nothing, _ratio(total_D, size_D, counts_BD))
        residual_D = total_D - value * size_D
        shift_B = _ratio(residual_D, size_D, counts_BD)
        whole = np.ones((1, len(total_D)), np.int64)
        (error,) = _errors(residual_D, size_D, whole, np.zeros(1))
        with np.errstate(divide="ignore", invalid="ignore"):  # resamples of one document stray infinitely far
            strays_B = np.where(shift_B == 0, 0.0, shift_B / _errors(residual_D, size_D, counts_BD, shift_B))
        return cls(value, float(error), strays_B, nothing)

    def interval(self, level: float) -> Interval:
        if self.error == 0:  # all documents have one ratio
            return Interval(self.value, self.value)
        if math.isinf(self.error):
            return _percentiles(self.values_B, level) if len(self.values_B) else EVERYTHING
        low, high = _tails(self.strays_B, level)
        return Interval(self.value - high * self.error, self.value - low * self.error)


def _errors(residual_D: Floats, size_D: Floats, counts_BD: Counts, shift_B: Floats) -> Floats:
    """The standard error of the ratio in each resample, [B], but for a factor that all share and that cancels.

    It is that of the residuals of its documents, linearized.

    Args:
      residual_D: of the whole sample.
      shift_B: the ratio of residuals in each resample, which its own residuals are without.
    """
    squares_D3 = np.stack([residual_D**2, residual_D * size_D, size_D**2], axis=-1)
    of_residuals_B, of_both_B, of_sizes_B = (counts_BD @ squares_D3).T
    squares_B = np.maximum(0.0, of_residuals_B - 2 * shift_B * of_both_B + shift_B**2 * of_sizes_B)
    return np.sqrt(squares_B) / (counts_BD @ size_D)


def _half_width_of_seeds(values_S: Floats, level: float) -> float:
    count = len(values_S)
    quantile = float(stdtrit(count - 1, (1 + level) / 2))
    return quantile * float(values_S.std(ddof=1)) / math.sqrt(count)


def _ratio(total_D: ArrayLike, size_D: ArrayLike, counts_BD: NDArray) -> Floats:
    """The ratio in each resample, [B]."""
    total_D, size_D = np.asarray(total_D, np.float64), np.asarray(size_D, np.float64)
    assert total_D.shape == size_D.shape == counts_BD.shape[1:], (total_D.shape, size_D.shape, counts_BD.shape)
    assert (size_D > 0).all(), "a document without target bytes"
    finite_D = np.isfinite(total_D)
    # Non-finite losses are counted apart: 0 · inf would spoil the resamples that leave their document out.
    total_B = counts_BD @ np.where(finite_D, total_D, 0.0)
    return np.where(counts_BD @ ~finite_D > 0, np.inf, total_B / (counts_BD @ size_D))


def _percentiles(values_B: Floats, level: float) -> Interval:
    """The central `level` of the values. An undefined one (inf − inf) could be anything and so counts against both ends."""
    undefined_B = np.isnan(values_B)
    low, _ = _tails(np.where(undefined_B, -np.inf, values_B), level)
    _, high = _tails(np.where(undefined_B, np.inf, values_B), level)
    return Interval(low, high)


def _tails(values_B: Floats, level: float) -> tuple[float, float]:
    """The ends of the central `level`: order statistics, rounded outwards, for interpolating beside an inf makes NaN."""
    tail = (1 - level) / 2
    return float(np.quantile(values_B, tail, method="lower")), float(np.quantile(values_B, 1 - tail, method="higher"))
