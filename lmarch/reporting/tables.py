"""Tables in a terminal and in Markdown, and the results as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

import rich.box
from rich.table import Table
from rich.text import Text

from lmarch.durable import replacing
from lmarch.reporting.grid import CROP, Cell, Grid
from lmarch.reporting.results import Comparison, Estimate


def terminal_table(grid: Grid, title: str | None = None) -> Table:
    caption = "\n".join(f"{note.mark}  {note.text}".strip() for note in grid.notes)
    table = Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        title=Text(title) if title else None,
        title_justify="left",
        caption=Text(caption) if caption else None,
        caption_justify="left",
    )
    table.add_column(grid.corner, no_wrap=True)
    for heading in grid.headings:  # where the terminal is narrow, headings and intervals go on a second line
        table.add_column(Text(heading), justify="right")
    for block in grid.blocks:
        if block.title:
            table.add_row(Text(block.title, style="italic"))
        for label, cells in block.rows:
            style = "dim" if label == CROP else ""
            table.add_row(Text(f"  {label}"), *map(_terminal_cell, cells), style=style)
        table.add_section()
    return table


def _terminal_cell(cell: Cell) -> Text:
    # Text, not markup: '[1.60, 1.80]' would be read as a tag
    return Text(f"{cell.text} {cell.marks}".rstrip(), style="bold" if cell.strong else "")


def markdown_table(grid: Grid) -> str:
    """One table a block, then the footnotes."""
    parts = []
    for block in grid.blocks:
        lines = [[block.title or grid.corner, *grid.headings], ["---", *["---:"] * len(grid.headings)]]
        lines += [[label.replace("|", "\\|"), *map(_markdown_cell, cells)] for label, cells in block.rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    if grid.notes:
        parts.append(
            "\n".join(" ".join(filter(None, ("-", _superscript(note.mark), note.text))) for note in grid.notes)
        )
    return "\n\n".join(parts) + "\n"


def _markdown_cell(cell: Cell) -> str:
    return (f"**{cell.text}**" if cell.strong else cell.text) + _superscript(cell.marks)


def _superscript(marks: str) -> str:
    return f"<sup>{marks}</sup>" if marks else ""


def write_csv(comparison: Comparison, path: str | Path) -> None:
    """Bits per byte, wide and at full precision: `method`, then `W, W_low, W_high` for each length.

    The last row is the crop control. What was not evaluated stays empty.
    """
    header = [f"{length}{suffix}" for length in comparison.lengths for suffix in ("", "_low", "_high")]
    lines = [
        (method, [comparison.value(method, length) for length in comparison.lengths]) for method in comparison.methods
    ]
    lines.append((CROP, [comparison.crop(length) for length in comparison.lengths]))
    with replacing(Path(path)) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", *header])
        writer.writerows([name, *(number for estimate in row for number in _triple(estimate))] for name, row in lines)


def _triple(estimate: Estimate | None) -> Sequence[float | str]:
    return (estimate.value, estimate.interval.low, estimate.interval.high) if estimate else ("", "", "")
