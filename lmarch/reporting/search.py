"""Pictures of a search: what was tried, and the value of each trial.

A tried row maps fields to values, and VALUE to bits per byte; fewer are better. Trials without a value are left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lmarch.evaluation.statistics import Interval
from lmarch.reporting.results import Estimate
from lmarch.reporting.style import COLOURS, GREY, INK, RC, look

VALUE = "validation"
Tried = Mapping[str, Any]
COLUMNS = 3


def slices_figure(tried: Sequence[Tried], fields: Sequence[str]) -> Figure:
    """A panel a field: the value of every trial above what it had there."""
    lines = -(-len(fields) // COLUMNS)
    with matplotlib.rc_context(RC):
        columns = min(COLUMNS, len(fields))
        width = 4.8 if len(fields) == 1 else 1.2 + 2.7 * columns
        figure = Figure(figsize=(width, 0.4 + 2.6 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        for number, (panel, field) in enumerate(zip(panels, fields, strict=False)):
            scale = Scale.of([row.get(field) for row in tried])
            x = [scale.place(row.get(field)) for row in tried]
            panel.plot(x, [row[VALUE] for row in tried], "o", color=COLOURS[0], alpha=0.7, markeredgewidth=0)
            scale.mark(panel.xaxis)
            panel.set(xlabel=field)
            if number % columns == 0:
                panel.set_ylabel("validation bits per byte")
        for panel in panels[len(fields) :]:
            panel.set_visible(False)
    return figure


def parallel_figure(tried: Sequence[Tried], fields: Sequence[str]) -> Figure:
    """A line a trial across its fields to its value; the best third stands out."""
    scales = {field: Scale.of([row.get(field) for row in tried]) for field in fields}
    scales[VALUE] = Scale.of([row[VALUE] for row in tried], numbers=True)
    best = sorted(row[VALUE] for row in tried)[max(0, len(tried) // 3 - 1)]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2.4 + 1.6 * len(scales), 3.4), layout="constrained")
        axes = figure.subplots()
        axes.grid(False)
        for row in sorted(tried, key=lambda row: -row[VALUE]):
            good = row[VALUE] <= best
            heights = [scale.share(row.get(field)) for field, scale in scales.items()]
            axes.plot(heights, color=COLOURS[1] if good else GREY, alpha=0.9 if good else 0.35, linewidth=1.3)
        for place, scale in enumerate(scales.values()):
            axes.axvline(place, color=GREY, linewidth=0.7)
            for share, text in scale.labels():
                axes.text(place + 0.03, share, text, fontsize=7, va="center", bbox=_PAPER)
        axes.set_xticks(range(len(scales)), [*fields, "validation\nbits per byte"])
        axes.set(yticks=[], xlim=(-0.1, len(scales) - 0.4), ylim=(-0.06, 1.06))
        axes.spines["left"].set_visible(False)
    return figure


def map_figure(tried: Sequence[Tried], across: str, down: str) -> Figure:
    """The lowest value of those tried at each pair of values of two fields, and the lowest of all framed."""
    columns, lines = ([*dict.fromkeys(_ordered(row[field] for row in tried))] for field in (across, down))
    cells: dict[tuple[int, int], float] = {}
    for row in tried:
        place = columns.index(row[across]), lines.index(row[down])
        cells[place] = min(row[VALUE], cells.get(place, math.inf))
    low, high = min(cells.values()), max(cells.values())
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(1.8 + 0.9 * len(columns), 1.2 + 0.55 * len(lines)), layout="constrained")
        axes = figure.subplots()
        axes.grid(False)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(lines) - 0.5, -0.5), xlabel=across, ylabel=down)
        axes.set_xticks(range(len(columns)), [short(value) for value in columns])
        axes.set_yticks(range(len(lines)), [short(value) for value in lines])
        axes.set_title("Bits per byte of validation text (lower is better)")
        for (x, y), value in cells.items():
            share = (value - low) / (high - low) if high > low else 0.0
            colour = matplotlib.colormaps["viridis"](1 - share)
            best = value == low
            axes.add_patch(
                Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=colour, edgecolor="black", linewidth=1.6 * best)
            )
            ink = "black" if share < 0.45 else "white"
            axes.text(x, y, f"{value:.3f}", color=ink, ha="center", va="center_baseline", fontsize=7.5)
    return figure


def importance_figure(importances: Mapping[str, float]) -> Figure:
    """Bars: how much of the differences between trials each field explains."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.4, 0.8 + 0.32 * len(importances)), layout="constrained")
        axes = figure.subplots()
        names = list(importances)[::-1]
        axes.barh(names, [importances[name] for name in names], color=COLOURS[0], height=0.6)
        axes.grid(False)
        axes.set(xlabel="share of what explains low values (PED-ANOVA)", xlim=(0, 1))
    return figure


def lengths_figure(lines: Sequence[tuple[str, Mapping[float, Estimate | None]]]) -> Figure:
    """A line a group of trials: bits per byte at each multiple of its trained length, with ribbons for intervals.

    What is beyond three times the lowest value leaves the panel; a line has a gap where it has no value.
    """
    undefined = Estimate(math.nan, Interval(math.nan, math.nan))
    drawn = [(name, {place: one or undefined for place, one in line.items()}) for name, line in lines]
    values = [one.value for _, line in drawn for one in line.values() if math.isfinite(one.value)]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 3.2), layout="constrained")
        axes = figure.subplots()
        for index, (name, line) in enumerate(drawn):
            axes.plot(list(line), [one.value for one in line.values()], label=name, **look(index))
            low, high = ([getattr(one.interval, end) for one in line.values()] for end in ("low", "high"))
            axes.fill_between(list(line), low, high, color=look(index)["color"], alpha=0.12, linewidth=0)
        places = sorted({place for _, line in drawn for place in line})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:g} L" for place in places], minor=False)
        axes.axvline(1.0, linestyle="--", color=INK, linewidth=0.8)
        margin = 0.08 * (max(values) - min(values)) or 0.1
        axes.set_ylim(min(values) - margin, min(max(values) + margin, 3 * min(values)))
        axes.set(xlabel="window, in trained lengths (L)", ylabel="bits per byte of validation text")
        figure.legend(loc="outside right upper", fontsize=7.5)
    return figure


class Scale:
    """Where values of a field stand on an axis: numbers by size, their logarithms where they span decades, others in turn."""

    def __init__(self, values: Sequence[Any], log: bool, numbers: bool) -> None:
        self.values, self.log, self.numbers = values, log, numbers

    @classmethod
    def of(cls, given: Sequence[Any], numbers: bool | None = None) -> "Scale":
        values = _ordered(given)
        plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        decades = plain and values[0] > 0 and values[-1] / values[0] >= 5
        return cls(values, log=decades and not numbers, numbers=plain)

    def place(self, value: Any) -> float:
        if not self.numbers:
            return float(self.values.index(value))
        return float(np.log10(value)) if self.log else float(value)

    def share(self, value: Any) -> float:
        """In [0, 1]."""
        low, high = self.place(self.values[0]), self.place(self.values[-1])
        return (self.place(value) - low) / (high - low) if high > low else 0.5

    def labels(self) -> list[tuple[float, str]]:
        """(share, text) of the values, of numbers at most five."""
        shown = self.values if not self.numbers or len(self.values) <= 5 else self.values[:: len(self.values) - 1]
        return [(self.share(value), short(value)) for value in shown]

    def mark(self, axis: Any) -> None:
        shown = self.values if not self.numbers or len(self.values) <= 5 else self.values[:: len(self.values) - 1]
        axis.set_ticks([self.place(value) for value in shown], [short(value) for value in shown])
        if not self.numbers and max(len(short(value)) for value in shown) > 8:
            for label in axis.get_ticklabels():
                label.set(rotation=30, ha="right")


_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}


def short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _ordered(values: Any) -> list[Any]:
    """Each once: numbers by size, others as they come, what a conditional space leaves out last."""
    found = list(dict.fromkeys(values))
    plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found)
    return sorted(found) if plain else sorted(found, key=lambda value: value is None)


def varied(tried: Sequence[Tried], fields: Sequence[str]) -> list[str]:
    """The fields that have at least two values."""
    return [field for field in fields if len({row.get(field) for row in tried}) > 1]
