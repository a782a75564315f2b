"""What the panels of all figures share: lines with ribbons, clipping, the axis of lengths, the trained length, the legend."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lmarch.reporting import numbers
from lmarch.reporting.grid import CROP
from lmarch.reporting.results import Comparison, Estimate
from lmarch.reporting.style import GREY, INK, looks

Quantity = Callable[[str, float], Estimate | None]


def draw_clipped(
    axes: Axes,
    comparison: Comparison,
    quantity: Quantity,
    baseline: float,
    floor: float = -math.inf,
    ceiling: float = math.inf,
    print_last: bool = False,
    **look: Any,
) -> dict[str, Line2D]:
    """A line and a ribbon for each method, and its value in print where it leaves the panel; returns the lines.

    The panel holds the baseline and as much of the intervals as lies between floor and ceiling.

    Args:
      print_last: only the value at a method's last place, where there are too many to print.
      look: of the lines, beside what tells methods apart.
    """
    points = _points(comparison, quantity)
    bounds = [bound for point in points.values() for bound in (point.interval.low, point.interval.high)]
    shown = [baseline, *(min(max(bound, floor), ceiling) for bound in bounds if math.isfinite(bound))]
    margin = 0.04 * (max(shown) - min(shown)) or 0.1
    bottom, top = max(min(shown) - margin, floor), min(max(shown) + margin, ceiling)
    panel = Rectangle((0, bottom), 1, top - bottom, transform=axes.get_yaxis_transform())
    # Lines run towards their true values and stop at the edge: a line along the edge would look like a plateau.
    lines = draw_methods(axes, comparison, quantity, panel, **look)
    outside = [
        (point.value, length, str(lines[method].get_color()))
        for (method, length), point in points.items()
        if not bottom <= point.value <= top
        and (not print_last or length == max(where for name, where in points if name == method))
    ]
    gap = math.log2(comparison.lengths[-1] / comparison.lengths[0]) / 7  # in octaves, the width of a printed value
    rows_above = _print_clipped(axes, [point for point in outside if point[0] > top], top, "▲", 1, gap)
    rows_below = _print_clipped(axes, [point for point in outside if point[0] < bottom], bottom, "▼", -1, gap)
    _draw_frame(axes, comparison.trained_length, bottom, top, rows_below, rows_above)
    return lines


def draw_crop(axes: Axes, comparison: Comparison, quantity: Callable[[float], Estimate | None]) -> dict[str, Line2D]:
    """The crop control, dotted, where it was measured; returns its line by its name."""
    points = {length: crop.value for length in comparison.lengths if (crop := quantity(length))}
    if not points:
        return {}
    (line,) = axes.plot(list(points), list(points.values()), ":", color=GREY, gid=CROP)
    return {CROP: line}


def draw_shares(axes: Axes, comparison: Comparison) -> dict[str, Line2D]:
    """Shares in percent, from 0 to 100."""
    lines = draw_methods(axes, comparison, comparison.share)
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20), [f"{percent} %" for percent in range(0, 101, 20)])
    axes.spines["left"].set_bounds(0, 100)
    mark_trained(axes, comparison.trained_length)
    return lines


def draw_methods(
    axes: Axes, comparison: Comparison, quantity: Quantity, panel: Rectangle | None = None, **look: Any
) -> dict[str, Line2D]:
    """A line and a ribbon for each method, cut off at the panel; returns the lines."""
    look_of, points, lines = looks(comparison), _points(comparison, quantity), {}
    for method in comparison.methods:
        own = {length: point for (name, length), point in points.items() if name == method}
        (line,) = axes.plot(list(own), [point.value for point in own.values()], gid=method, **(look_of[method] | look))
        ribbon = axes.fill_between(
            list(own),
            [point.interval.low for point in own.values()],
            [point.interval.high for point in own.values()],
            color=look_of[method]["color"],
            alpha=0.16,
            linewidth=0,
        )
        if panel:
            line.set_clip_path(panel)
            ribbon.set_clip_path(panel)
        lines[method] = line
    return lines


def mark_trained(axes: Axes, trained: int) -> None:
    axes.axvline(trained, linestyle="--", color=INK, linewidth=0.8, gid="trained length")


def shade_trained(axes: Axes, trained: int) -> None:
    """What lies within the trained length, lightly."""
    axes.axvspan(axes.get_xlim()[0], trained, color=GREY, alpha=0.1, linewidth=0, zorder=0, gid="trained region")


def draw_lengths(
    axes: Axes, comparison: Comparison, label: str = "window length W (tokens)", ticks: Sequence[float] = ()
) -> None:
    """A log₂ axis ticked at the lengths themselves; the trained length is named above its line."""
    lengths, trained = comparison.lengths, comparison.trained_length
    ticks = ticks or lengths
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(lengths[0], trained) / 1.25, max(lengths[-1], trained) * 1.25)
    axes.set_xticks(ticks, minor=True)
    labelled = _spread(ticks, trained)
    axes.set_xticks(labelled, [f"{tick:.6g}\n×{comparison.multiple(tick)}" for tick in labelled])
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(label)
    _name_trained(axes, trained)


def octaves(comparison: Comparison) -> list[float]:
    """The trained length by powers of two, as far as the axis of lengths reaches, but no fraction of a token."""
    trained, margin = comparison.trained_length, math.log2(1.25)
    low, high = (math.log2(end / trained) for end in (comparison.lengths[0], comparison.lengths[-1]))
    powers = range(math.ceil(low - margin), math.floor(high + margin) + 1)
    return [tick for power in powers if (tick := trained * 2.0**power).is_integer()] or [trained]


def draw_positions(axes: Axes, comparison: Comparison, longest: int) -> None:
    """A linear axis ticked at multiples of the trained length, which is named above its line."""
    trained = comparison.trained_length
    step = trained * max(1, math.ceil(longest / trained / 9))
    ticks = sorted({0, trained, *range(0, longest + 1, step)})
    axes.set_xlim(0, longest * 1.04)
    axes.set_xticks(ticks, [f"{tick}\n×{comparison.multiple(tick)}" for tick in ticks])
    axes.set_xlabel("position in the window (tokens)")
    _name_trained(axes, trained)


def draw_legend(figure: Figure, lines: Mapping[str, Line2D]) -> None:
    """Above the panels, in as many columns as there is room for."""
    labels = list(lines)
    figure.legend(
        list(lines.values()),
        labels,
        loc="outside upper left",
        ncols=next(n for n in range(min(6, len(labels)), 0, -1) if n == 1 or _width(labels, n) < figure.get_figwidth()),
        handlelength=2.4,
        columnspacing=1.8,
    )


def draw_note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.012, ha="left", fontsize=7.5, color=GREY)


def counts(rows: Iterable[Mapping[str, Any]], **symbols: tuple[str, str]) -> str:
    """'S = 64 targets a window, n = 40 documents': of each symbol the key and the unit."""
    rows = list(rows)
    return ", ".join(
        f"{symbol} = {', '.join(sorted({str(row[key]) for row in rows}))} {unit}"
        for symbol, (key, unit) in symbols.items()
    )


def _name_trained(axes: Axes, trained: int) -> None:
    axes.annotate(
        "trained length", (trained, 1), (0, 3), ("data", "axes fraction"), "offset points", ha="center", fontsize=7.5
    )


def _width(labels: Sequence[str], columns: int) -> float:
    """About how many inches a legend takes; matplotlib fills column after column, the first ones with the remainder."""
    each, more = divmod(len(labels), columns)
    starts = [column * each + min(column, more) for column in range(columns + 1)]
    longest = [max(map(len, labels[start:end])) for start, end in itertools.pairwise(starts)]
    return sum(0.55 + 0.066 * length for length in longest)


def _points(comparison: Comparison, quantity: Quantity) -> dict[tuple[str, float], Estimate]:
    return {
        (method, length): point
        for method in comparison.methods
        for length in comparison.lengths
        if (point := quantity(method, length)) and not math.isnan(point.value)
    }


def _print_clipped(
    axes: Axes, clipped: list[tuple[float, float, str]], edge: float, triangle: str, side: int, gap: float
) -> int:
    """A triangle and the value for each (value, length, colour) beyond the edge, the nearest first.

    Those less than `gap` octaves apart are stacked; returns the number of rows.
    """
    rows: list[list[float]] = []  # the lengths printed in each
    for value, length, colour in sorted(clipped, key=lambda point: abs(point[0])):
        free = (i for i, row in enumerate(rows) if all(abs(math.log2(length / other)) > gap for other in row))
        index = next(free, len(rows))
        if index == len(rows):
            rows.append([])
        rows[index].append(length)
        axes.annotate(
            f"{triangle} {numbers.number(value, 2)}",
            xy=(length, edge),
            xytext=(0, side * (11 * index + 7)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color=colour,
            gid="clipped",
        )
    return len(rows)


def _draw_frame(axes: Axes, trained: int, bottom: float, top: float, rows_below: int, rows_above: int) -> None:
    """The axis from bottom to top, room for rows of print beyond either end, and the trained length."""
    below, above = (0.07 * rows + 0.01 * (rows > 0) for rows in (rows_below, rows_above))
    height = (top - bottom) / (1 - below - above)
    axes.set_ylim(bottom - below * height, top + above * height)
    axes.locator_params(axis="y", nbins=7)
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= top])
    axes.spines["left"].set_bounds(bottom, top)
    axes.plot(
        [trained, trained], [bottom, axes.get_ylim()[1]], linestyle="--", color=INK, linewidth=0.8, gid="trained length"
    )


def _spread(lengths: Sequence[float], trained: int) -> list[float]:
    """The lengths that can be labelled without touching: powers of two of the trained length first, then what fits."""
    gap = math.log2(max(lengths) / min(lengths)) / 9
    chosen: list[float] = []
    for length in sorted(lengths, key=lambda length: not math.log2(length / trained).is_integer()):
        if all(abs(math.log2(length / other)) >= gap for other in chosen):
            chosen.append(length)
    return sorted(chosen)
