"""Bits per byte and context gain against window length, and the curves of training.

Figures are built through matplotlib's object interface: no pyplot and no window.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lmarch.reporting import numbers
from lmarch.reporting.grid import CROP
from lmarch.reporting.results import Comparison, Estimate, Row, compare
from lmarch.reporting.style import COLOURS, GREY, INK, RC, looks

# A date would make two drawings of the same results differ.
NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def bits_per_byte_figure(results: Sequence[Row]) -> Figure:
    """Left: bits per byte. Right: context gain around its zero line.

    Bits per byte are cut off at three times those of the trained length, and negative gains at a quarter of them:
    beyond, a triangle and a number say how far a method went, and what happens near the trained model stays visible.
    """
    comparison = compare(results)
    reference = _reference(comparison)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.set(ylabel="bits per byte")
        left.set_title("Bits per byte (lower is better)", pad=16)
        right.set(ylabel="bits per byte saved")
        right.set_title("Context gain (above 0, the longer context helps)", pad=16)

        crops = [crop.value if crop else math.nan for crop in map(comparison.crop, comparison.lengths)]
        (crop_line,) = left.plot(comparison.lengths, crops, ":", color=GREY, gid=CROP)
        right.axhline(0.0, color=GREY, linewidth=0.9, gid="zero")
        lines = _draw_methods(left, comparison, comparison.value, reference, ceiling=3 * reference)
        _draw_methods(right, comparison, comparison.gain, 0.0, floor=-reference / 4)
        for axes in (left, right):
            _draw_lengths(axes, comparison)

        figure.legend(
            [*lines, crop_line],
            [*comparison.labels.values(), CROP],
            loc="outside upper left",
            ncols=6,
            handlelength=2.4,
            columnspacing=1.8,
        )
        figure.supxlabel(_note(comparison), x=0.012, ha="left", fontsize=7.5, color=GREY)
    return figure


def loss_curve_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss in nats per token, validation in bits per byte: a panel for each of the two that was recorded."""
    panels = [
        (title, unit, [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None])
        for key, title, unit in (
            ("loss", "Training loss", "nats per token"),
            ("validation_bpb", "Validation", "bits per byte"),
        )
    ]
    panels = [panel for panel in panels if panel[-1]]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 2.6), layout="constrained")
        for axes, (title, unit, points) in zip(
            figure.subplots(1, len(panels), sharex=True, squeeze=False)[0], panels, strict=True
        ):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=COLOURS[0], marker="o" if len(points) < 20 else "", markersize=3)
            axes.set(title=title, xlabel="step", ylabel=unit)
    return figure


def save_figure(figure: Figure, path_without_suffix: str | Path) -> list[Path]:
    """Writes PNG (200 dpi) and SVG on white; returns their paths."""
    paths = [Path(f"{path_without_suffix}.{kind}") for kind in ("png", "svg")]
    with matplotlib.rc_context(RC):
        figure.savefig(paths[0], dpi=200, facecolor="white")
        figure.savefig(paths[1], facecolor="white", metadata=NO_METADATA)
    return paths


def inline_svg(figure: Figure) -> str:
    """The `<svg>` element alone, without background, its ink in the colour of the text around it."""
    buffer = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="svg", facecolor="none", metadata=NO_METADATA)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _reference(comparison: Comparison) -> float:
    """Bits per byte of the unmodified model at its trained length, which is what the crop control measures."""
    crops = [crop.value for crop in map(comparison.crop, comparison.lengths) if crop]
    values = sorted(value.value for cell in comparison.rows if (value := comparison.value(*cell)))
    return next(filter(math.isfinite, crops + values), 1.0)


def _draw_methods(
    axes: Axes,
    comparison: Comparison,
    quantity: Callable[[str, int], Estimate | None],
    baseline: float,
    floor: float = -math.inf,
    ceiling: float = math.inf,
) -> list[Line2D]:
    """A line and a ribbon for each method, and its value in print where it leaves the panel; returns the lines.

    The panel holds the baseline and as much of the intervals as lies between floor and ceiling.
    """
    points = {
        (method, length): point
        for method in comparison.methods
        for length in comparison.lengths
        if (point := quantity(method, length)) and not math.isnan(point.value)
    }
    bounds = [bound for point in points.values() for bound in (point.interval.low, point.interval.high)]
    shown = [baseline, *(min(max(bound, floor), ceiling) for bound in bounds if math.isfinite(bound))]
    margin = 0.04 * (max(shown) - min(shown)) or 0.1
    bottom, top = max(min(shown) - margin, floor), min(max(shown) + margin, ceiling)
    panel = Rectangle((0, bottom), 1, top - bottom, transform=axes.get_yaxis_transform())

    look_of = looks(comparison)
    lines = []
    outside: list[tuple[float, int, str]] = []
    for method in comparison.methods:
        own = {length: point for (name, length), point in points.items() if name == method}
        look = look_of[method]
        # Lines run towards their true values and stop at the edge: a line along the edge would look like a plateau.
        (line,) = axes.plot(list(own), [point.value for point in own.values()], gid=method, **look)
        ribbon = axes.fill_between(
            list(own),
            [point.interval.low for point in own.values()],
            [point.interval.high for point in own.values()],
            color=look["color"],
            alpha=0.16,
            linewidth=0,
        )
        for artist in (line, ribbon):
            artist.set_clip_path(panel)
        lines.append(line)
        outside += [(p.value, length, look["color"]) for length, p in own.items() if not bottom <= p.value <= top]

    gap = math.log2(comparison.lengths[-1] / comparison.lengths[0]) / 7  # in octaves, the width of a printed value
    rows_above = _print_clipped(axes, [point for point in outside if point[0] > top], top, "▲", 1, gap)
    rows_below = _print_clipped(axes, [point for point in outside if point[0] < bottom], bottom, "▼", -1, gap)
    _draw_frame(axes, comparison.trained_length, bottom, top, rows_below, rows_above)
    return lines


def _print_clipped(
    axes: Axes, clipped: list[tuple[float, int, str]], edge: float, triangle: str, side: int, gap: float
) -> int:
    """A triangle and the value for each (value, length, colour) beyond the edge, the nearest first.

    Those less than `gap` octaves apart are stacked; returns the number of rows.
    """
    rows: list[list[int]] = []  # the lengths printed in each
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


def _draw_lengths(axes: Axes, comparison: Comparison) -> None:
    """A log₂ axis ticked at the lengths themselves; the trained length is named above its line."""
    lengths, trained = comparison.lengths, comparison.trained_length
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(lengths[0], trained) / 1.25, max(lengths[-1], trained) * 1.25)
    axes.set_xticks(lengths, minor=True)
    labelled = _spread(lengths, trained)
    axes.set_xticks(labelled, [f"{length}\n×{comparison.multiple(length)}" for length in labelled])
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("window length W (tokens)")
    axes.annotate(
        "trained length", (trained, 1), (0, 3), ("data", "axes fraction"), "offset points", ha="center", fontsize=7.5
    )


def _spread(lengths: Sequence[int], trained: int) -> list[int]:
    """The lengths that can be labelled without touching: powers of two of the trained length first, then what fits."""
    gap = math.log2(max(lengths) / min(lengths)) / 9
    chosen: list[int] = []
    for length in sorted(lengths, key=lambda length: not math.log2(length / trained).is_integer()):
        if all(abs(math.log2(length / other)) >= gap for other in chosen):
            chosen.append(length)
    return sorted(chosen)


def _note(comparison: Comparison) -> str:
    """'S = 64 targets a window, n = 40 documents; ribbons: …'"""
    rows = comparison.rows.values()
    counts = (
        f"{symbol} = {', '.join(sorted({str(row[key]) for row in rows}))} {unit}"
        for symbol, key, unit in (("S", "targets", "targets a window"), ("n", "n", "documents"))
    )
    return f"{', '.join(counts)}. Ribbons: 95 % bootstrap intervals over documents, paired for the gain."
