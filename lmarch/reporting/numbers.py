"""How an estimate is written: one rule for tables, figures and prose."""

import math
import statistics
from collections.abc import Iterable

from lmarch.reporting.results import Estimate


def decimals(estimates: Iterable[Estimate | None], fewest: int = 2) -> int:
    """As many as show the typical interval: two, and up to four where intervals are narrow."""
    halves = [half for estimate in estimates if estimate and 0 < (half := _half_width(estimate)) < math.inf]
    return min(4, max(fewest, math.ceil(-math.log10(statistics.median(halves))))) if halves else fewest


def number(value: float, places: int, sign: bool = False) -> str:
    """Fixed point with a true minus; beyond ±1000 only the order matters."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        text = f"{value:+}" if sign else f"{value}"
    elif abs(value) > 1e3:
        text = ">1e3" if value > 0 else "<-1e3"
    else:
        text = f"{value:+.{places}f}" if sign and value else f"{value:.{places}f}"
    return text.replace("-", "−")


def bracketed(estimate: Estimate, places: int) -> str:
    """'[0.80, 1.05]'"""
    return f"[{number(estimate.interval.low, places)}, {number(estimate.interval.high, places)}]"


def with_interval(estimate: Estimate, places: int, sign: bool = False) -> str:
    """'1.64 ±0.02', or '1.64 [1.60, 1.80]' where one half width would mislead."""
    value, half = number(estimate.value, places, sign), _half_width(estimate)
    if half == 0:
        return value
    middle = (estimate.interval.low + estimate.interval.high) / 2
    if math.isfinite(half) and abs(estimate.value - middle) <= half / 4 and half <= 1e3:
        return f"{value} ±{half:.{places}f}"
    return f"{value} {bracketed(estimate, places)}"


def _half_width(estimate: Estimate) -> float:
    low, high = estimate.interval.low, estimate.interval.high
    return 0.0 if low == high else (high - low) / 2  # two equal infinities have no width either
