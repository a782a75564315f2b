"""Lines against window length, position in the window or distance: shares, loss by position, cost."""

import math
import statistics
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from lmarch.reporting.panels import (
    counts,
    draw_clipped,
    draw_crop,
    draw_legend,
    draw_lengths,
    draw_methods,
    draw_note,
    draw_positions,
    draw_shares,
    mark_trained,
    octaves,
    shade_trained,
)
from lmarch.reporting.results import Comparison
from lmarch.reporting.style import RC

SHADED = "Shaded: within the trained length. Ribbons: 95 % intervals."


def shares_figure(panels: Mapping[str, Comparison], items: str) -> Figure:
    """Shares in percent against window length, a panel each, by title; dotted: the crop control, where there is one.

    Args:
      items: what the intervals are over.
    """
    first = next(iter(panels.values()))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 3.8), layout="constrained")
        drawn = zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
        for axes, (title, comparison) in drawn:
            crop = draw_crop(axes, comparison, comparison.crop_share)
            lines = draw_shares(axes, comparison)
            draw_lengths(axes, comparison)
            shade_trained(axes, comparison.trained_length)
            axes.set_title(title, pad=16)
        draw_legend(figure, {first.labels[method]: line for method, line in lines.items()} | crop)
        draw_note(figure, f"{counts(first.rows.values(), n=('n', items))}. {SHADED}")
    return figure


def loss_by_position_figure(comparison: Comparison) -> Figure:
    """Bits per byte against the middle of each bucket, cut off at three times the median within the trained length."""
    within = [
        value.value
        for cell in comparison.rows
        if (value := comparison.value(*cell)) and cell[1] <= comparison.trained_length and math.isfinite(value.value)
    ]
    usual = statistics.median(within) if within else 1.0
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 4.0), layout="constrained")
        axes = figure.subplots()
        lines = draw_clipped(
            axes, comparison, comparison.value, usual, ceiling=3 * usual, print_last=True, markevery=16, linewidth=1.1
        )
        draw_positions(axes, comparison, max(row["to_position"] for row in comparison.rows.values()))
        shade_trained(axes, comparison.trained_length)
        axes.set_ylabel("bits per byte")
        axes.set_title("Bits per byte by position (lower is better)", pad=16)
        draw_legend(figure, {comparison.labels[method]: line for method, line in lines.items()})
        sizes = counts(comparison.rows.values(), n=("n", "documents"))
        draw_note(figure, f"{sizes}. {SHADED} A triangle: the value in the last bucket, beyond the axis.")
    return figure


def distance_figure(comparison: Comparison) -> Figure:
    """Exact match in percent against the distance from the answer to where it stands."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 3.8), layout="constrained")
        axes = figure.subplots()
        lines = draw_shares(axes, comparison)
        draw_lengths(axes, comparison, "distance to what is asked for (tokens)", octaves(comparison))
        shade_trained(axes, comparison.trained_length)
        axes.set_title("Exact match by distance, all lengths and depths", pad=16)
        draw_legend(figure, {comparison.labels[method]: line for method, line in lines.items()})
        numbers = [row["n"] for row in comparison.rows.values()]
        draw_note(figure, f"n = {min(numbers)} to {max(numbers)} problems a point, a point a half octave. {SHADED}")
    return figure


def cost_figure(panels: Mapping[str, Comparison]) -> Figure:
    """Tokens per second against window length, both in octaves, a panel for each axis that the context grows along."""
    first = next(iter(panels.values()))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 3.6), layout="constrained")
        drawn = zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True)
        for axes, (title, comparison) in drawn:
            lines = draw_methods(axes, comparison, comparison.speed)
            speeds = [speed.value for cell in comparison.rows if (speed := comparison.speed(*cell))]
            axes.set_yscale("log")
            # Within half a decade the powers of ten, and their halves and fifths, are too few.
            few = max(speeds) < 5 * min(speeds)
            axes.yaxis.set_major_locator(MaxNLocator(6) if few else LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.yaxis.set_minor_locator(NullLocator())
            draw_lengths(axes, comparison)
            mark_trained(axes, comparison.trained_length)
            axes.set_title(title, pad=16)
        figure.axes[0].set_ylabel("tokens per second")
        draw_legend(figure, {first.labels[method]: line for method, line in lines.items()})
        draw_note(
            figure, f"Attention: {', '.join(sorted({str(row['implementation']) for row in first.rows.values()}))}."
        )
    return figure
