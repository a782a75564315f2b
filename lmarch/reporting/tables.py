"""The results as a terminal table, as Markdown and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

import rich.box
from rich.table import Table
from rich.text import Text

from lmarch.reporting.grid import CROP, Cell, results_grid
from lmarch.reporting.results import Estimate, Row, compare


def terminal_table(results: Sequence[Row]) -> Table:
    """Methods by window length: bits per byte, the crop control, then context gain."""
    grid = results_grid(results)
    caption = "\n".join(f"{note.mark}  {note.text}".strip() for note in grid.notes)
    table = Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption=Text(caption) if caption else None,
        caption_justify="left",
    )
    table.add_column("method", no_wrap=True)
    for heading in grid.headings:  # where the terminal is narrow, headings and intervals go on a second line
        table.add_column(Text(heading), justify="right")
    for block in grid.blocks:
        table.add_row(Text(block.title, style="italic"))
        for label, cells in block.rows:
            style = "dim" if label == CROP else ""
            table.add_row(Text(f"  {label}"), *map(_terminal_cell, cells), style=style)
        table.add_section()
    return table


def _terminal_cell(cell: Cell) -> Text:
    # Text, not markup: '[1.60, 1.80]' would be read as a tag
    return Text(f"{cell.text} {cell.marks}".rstrip(), style="bold" if cell.strong else "")


def markdown_table(results: Sequence[Row]) -> str:
    """One table a block, then the footnotes."""
    grid = results_grid(results)
    parts = []
    for block in grid.blocks:
        lines = [[block.title, *grid.headings], ["---", *["---:"] * len(grid.headings)]]
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


def write_csv(results: Sequence[Row], path: str | Path) -> None:
    """Bits per byte, wide and at full precision: `method`, then `W, W_low, W_high` for each length.

    The last row is the crop control. What was not evaluated stays empty.
    """
    comparison = compare(results)
    header = [f"{length}{suffix}" for length in comparison.lengths for suffix in ("", "_low", "_high")]
    lines = [
        (method, [comparison.value(method, length) for length in comparison.lengths]) for method in comparison.methods
    ]
    lines.append((CROP, [comparison.crop(length) for length in comparison.lengths]))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", *header])
        writer.writerows([name, *(number for estimate in row for number in _triple(estimate))] for name, row in lines)


def _triple(estimate: Estimate | None) -> tuple[float | str, ...]:
    return (estimate.value, estimate.interval.low, estimate.interval.high) if estimate else ("", "", "")
