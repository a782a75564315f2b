"""How figures look: type, ink, and a palette that colour-blind readers can tell apart."""

from typing import Any

from lmarch.reporting.results import Comparison

INK = "#1a1a1b"  # everything that is not data; a page may replace it by its own text colour
GREY = "#7f7f7f"
# Okabe and Ito's palette, with Tol's wine for its yellow, which is lost on white; the unmodified model takes its black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#882255")
MARKERS = ("s", "D", "v", "P", "X", "h", "^")
DASHES = ("-", "--", "-.")

RC: Any = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",  # text stays text: searchable, and set in the reader's font
    "svg.hashsalt": "lmarch",  # the same results give the same file
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a label may hold a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "grid.alpha": 0.25,
    "grid.color": GREY,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "xtick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.color": INK,
    "ytick.major.width": 0.7,
}


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of one of several lines."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def looks(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each method of the evaluation."""
    vanilla = comparison.trained_with
    others = [method for method in comparison.labels if method != vanilla]
    look_of = {method: look(index) for index, method in enumerate(others)}
    if vanilla in comparison.labels:
        look_of[vanilla] = {"color": INK, "marker": "o", "linestyle": "-"}
    return look_of
