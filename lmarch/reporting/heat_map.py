"""What is found at which depth of which window: a map for each method, and the same by distance."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lmarch.evaluation.statistics import wilson
from lmarch.reporting.panels import draw_note
from lmarch.reporting.results import Comparison, Row, distinct
from lmarch.reporting.style import RC

COLUMNS = 3  # of panels


def heat_map_figure(rows: Sequence[Row], comparison: Comparison) -> Figure:
    """Exact match in percent by window length and depth, a panel a method; hatched: not farther than the trained length.

    Args:
      rows: `by_depth` rows of one task.
      comparison: names the methods.
    """
    methods, lengths, depths = distinct(rows, "method"), *(sorted(distinct(rows, key)) for key in ("length", "depth"))
    columns = min(COLUMNS, len(methods))
    height = 0.85 + 0.19 * len(depths)  # inches of a panel
    with matplotlib.rc_context(RC):
        lines = math.ceil(len(methods) / columns)
        figure = Figure(figsize=(8.2, 0.6 + height * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
        for panel in panels[len(methods) :]:
            panel.set_visible(False)
        for number, (panel, method) in enumerate(zip(panels, methods, strict=False)):
            own = [row for row in rows if row["method"] == method]
            _draw_map(panel, own, lengths, depths)
            numbers = ", ".join(map(str, sorted(set(distinct(own, "n")))))
            panel.set_title(f"{comparison.labels[method]} (n = {numbers} a cell)", fontsize=8.5)
            panel.set_xticks(range(len(lengths)), [f"{n}\n×{comparison.multiple(n)}" for n in lengths])
            panel.set_yticks(range(len(depths)), [f"{100 * depth:.3g} %" for depth in depths])
            panel.tick_params(labelbottom=True)
            if number % columns == 0:
                panel.set_ylabel("depth in the window")
            if number >= columns * (lines - 1):
                panel.set_xlabel("window length (tokens)")
        draw_note(
            figure,
            "Exact match in percent. Hatched: what is asked for is, on average, not farther away than the trained length.",
        )
    return figure


def _draw_map(axes: Axes, rows: Sequence[Row], lengths: Sequence[int], depths: Sequence[float]) -> None:
    axes.grid(False)
    axes.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(len(depths) - 0.5, -0.5))  # the beginning of the window on top
    colours = matplotlib.colormaps["viridis"]
    for row in rows:
        x, y, percent = lengths.index(row["length"]), depths.index(row["depth"]), 100 * row["value"]
        colour, ink = colours(percent / 100), "white" if percent < 60 else "black"
        near = row["distance"] <= row["trained_length"]
        # Patches instead of an image: they stay sharp, and the page embeds no picture.
        axes.add_patch(
            Rectangle(
                (x - 0.48, y - 0.46),
                0.96,
                0.92,
                facecolor=colour,
                edgecolor=(*((1.0,) * 3 if ink == "white" else (0.0,) * 3), 0.45),
                linewidth=0,
                hatch="////" if near else "",
            )
        )
        axes.text(
            x,
            y,
            f"{percent:.0f}",
            color=ink,
            fontsize=7,
            ha="center",
            va="center_baseline",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
        )


def by_distance(rows: Sequence[Row]) -> list[Row]:
    """Exact match of all problems whose answer stands equally far away, up to half an octave: a row a (method, distance).

    The trained length ends a half octave. A mean over all lengths and depths, weighted by their numbers of problems.

    Args:
      rows: `by_depth` rows of one task.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        half_octave = math.ceil(2 * math.log2(max(row["distance"], 1) / row["trained_length"]))
        groups.setdefault((row["method"], half_octave), []).append(row)
    made: list[Row] = []
    for own in groups.values():
        count = sum(row["n"] for row in own)
        share, distance = (sum(row[key] * row["n"] for row in own) / count for key in ("value", "distance"))
        interval = wilson(share, count)
        changed = {"task": "by_distance", "distance": distance, "n": count, "value": share, "low_n": count < 30}
        made.append({**own[0], **changed, "ci_low": interval.low, "ci_high": interval.high})
    return made
