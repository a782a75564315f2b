"""As many windows as a stated precision takes: half the width that the intervals of differences may have.

A first sample says how far differences between lines scatter; the half-width shrinks with the root of the number of windows, as
long as documents have more of them.
"""

import math
from collections.abc import Iterable

from lmarch.evaluation.statistics import Interval

DECIDED = 10  # a difference of so many half-widths needs no more of them


def widest(differences: Iterable[tuple[float, Interval]]) -> float:
    """The largest half-width of those differences that are finite and not decided anyway; 0 if there is none."""
    halves = [
        interval.half_width
        for value, interval in differences
        if math.isfinite(value) and math.isfinite(interval.half_width) and abs(value) < DECIDED * interval.half_width
    ]
    return max(halves, default=0.0)


def windows_needed(half_width: float, windows: int, precision: float) -> int:
    """How many windows bring the half-width that so many have down to the precision."""
    return windows if half_width <= precision else math.ceil(windows * (half_width / precision) ** 2)
