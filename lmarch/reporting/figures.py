"""Bits per byte and context gain against window length, the curves of training, and how figures are stored.

Figures are built through matplotlib's object interface: no pyplot and no window.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lmarch.durable import replacing
from lmarch.reporting.panels import counts, draw_clipped, draw_crop, draw_legend, draw_lengths, draw_note
from lmarch.reporting.results import Comparison
from lmarch.reporting.style import COLOURS, GREY, INK, RC

# A date would make two drawings of the same results differ.
NO_METADATA = {
    "png": {},
    "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def bits_per_byte_figure(comparison: Comparison, targets: str = "") -> Figure:
    """Left: bits per byte. Right: context gain around its zero line.

    Bits per byte are cut off at three times those of the trained length, and negative gains at a quarter of them:
    beyond, a triangle and a number say how far a method went, and what happens near the trained model stays visible.

    Args:
      targets: which are scored, if not all.
    """
    reference = trained_value(comparison)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.set(ylabel="bits per byte")
        left.set_title(f"Bits per byte{targets and ' of '}{targets} (lower is better)", pad=16)
        right.set(ylabel="bits per byte saved")
        right.set_title("Context gain (above 0, the longer context helps)", pad=16)

        crop = draw_crop(left, comparison, comparison.crop)
        right.axhline(0.0, color=GREY, linewidth=0.9, gid="zero")
        lines = draw_clipped(left, comparison, comparison.value, reference, ceiling=3 * reference)
        draw_clipped(right, comparison, comparison.gain, 0.0, floor=-reference / 4)
        for axes in (left, right):
            draw_lengths(axes, comparison)
        draw_legend(figure, {comparison.labels[method]: line for method, line in lines.items()} | crop)
        sizes = counts(comparison.rows.values(), S=("targets", "targets a window"), n=("n", "documents"))
        draw_note(figure, f"{sizes}. Ribbons: 95 % bootstrap intervals over documents, paired for the gain.")
    return figure


def trained_value(comparison: Comparison) -> float:
    """What the unmodified model gets at its trained length, which is what the crop control measures; or near it."""
    crops = [crop.value for crop in map(comparison.crop, comparison.lengths) if crop]
    values = sorted(value.value for cell in comparison.rows if (value := comparison.value(*cell)))
    return next(filter(math.isfinite, crops + values), 1.0)


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
    """Writes PNG (200 dpi), SVG and PDF on white; returns their paths."""
    paths = []
    with matplotlib.rc_context(RC):
        for kind, metadata in NO_METADATA.items():
            paths.append(Path(f"{path_without_suffix}.{kind}"))
            with replacing(paths[-1]) as partial:
                figure.savefig(partial, dpi=200, facecolor="white", metadata=metadata)
    return paths


def inline_svg(figure: Figure) -> str:
    """The `<svg>` element alone, without background, its ink in the colour of the text around it."""
    buffer = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="svg", facecolor="none", metadata=NO_METADATA["svg"])
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
