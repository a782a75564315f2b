"""The first picture of a report: what a longer window costs or saves on text, beside what is found in it."""

import matplotlib
from matplotlib.figure import Figure

from lmarch.reporting.figures import trained_value
from lmarch.reporting.panels import (
    counts,
    draw_clipped,
    draw_crop,
    draw_legend,
    draw_lengths,
    draw_note,
    draw_shares,
)
from lmarch.reporting.results import Comparison
from lmarch.reporting.style import RC


def headline_figure(bits: Comparison, found: Comparison) -> Figure:
    """Left: bits per byte of text, cut off at four times those of the trained length. Right: exact match of a task.

    The dotted line of either panel is the model as it was trained with its context cut to the trained length.
    """
    reference = trained_value(bits)
    (task,) = {str(row["corpus"]) for row in found.rows.values()}
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        crop = draw_crop(left, bits, bits.crop)
        lines = draw_clipped(left, bits, bits.value, reference, ceiling=4 * reference)
        draw_crop(right, found, found.crop_share)
        draw_shares(right, found)
        left.set(ylabel="bits per byte")
        left.set_title("Text: bits per byte (lower is better)", pad=16)
        right.set(ylabel="solved (exact match)")
        right.set_title(f"Problems of {task} (higher is better)", pad=16)
        for axes, comparison in ((left, bits), (right, found)):
            draw_lengths(axes, comparison)
        draw_legend(figure, {bits.labels[method]: line for method, line in lines.items()} | crop)
        sizes = counts(bits.rows.values(), n=("n", "documents"))
        problems = counts(found.rows.values(), n=("n", "problems a length"))
        draw_note(figure, f"Left: {sizes}. Right: {problems}. Ribbons: 95 % intervals.")
    return figure
