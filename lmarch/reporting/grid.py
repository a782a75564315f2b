"""What the results table says, before it is drawn in a terminal, in Markdown or in HTML."""

import dataclasses
from collections.abc import Callable, Sequence

from lmarch.reporting import numbers
from lmarch.reporting.footnotes import Footnote, footnotes
from lmarch.reporting.results import Estimate, Row, compare

CROP = "crop control"


@dataclasses.dataclass(frozen=True)
class Cell:
    """`strong` is kept for a context gain whose interval lies above 0 and rests on enough documents."""

    text: str
    marks: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Block:
    title: str
    rows: list[tuple[str, list[Cell]]]


@dataclasses.dataclass(frozen=True)
class Grid:
    """`headings` has one entry a length; so has every row of every block."""

    headings: list[str]
    blocks: list[Block]
    notes: list[Footnote]


def results_grid(results: Sequence[Row]) -> Grid:
    """Bits per byte of every method and of the crop control, then context gain."""
    comparison = compare(results)
    notes = footnotes(comparison)
    places = numbers.decimals(
        estimate(method, length)
        for estimate in (comparison.value, comparison.gain)
        for method in comparison.methods
        for length in comparison.lengths
    )

    def value_cell(method: str, length: int) -> Cell:
        marks = ",".join(note.mark for note in notes if (method, length) in note.cells)
        return Cell(_text(comparison.value(method, length), places), marks)

    def gain_cell(method: str, length: int) -> Cell:
        gain = comparison.gain(method, length)
        low_n = comparison.rows.get((method, length), {}).get("low_n")
        return Cell(_text(gain, places, sign=True), strong=bool(gain and gain.interval.low > 0 and not low_n))

    def row(cell: Callable[[str, int], Cell], method: str) -> tuple[str, list[Cell]]:
        return comparison.labels[method], [cell(method, length) for length in comparison.lengths]

    crop_row = CROP, [Cell(_text(comparison.crop(length), places)) for length in comparison.lengths]
    return Grid(
        headings=[f"{length} (×{comparison.multiple(length)})" for length in comparison.lengths],
        blocks=[
            Block("bits per byte", [row(value_cell, method) for method in comparison.methods] + [crop_row]),
            Block("context gain", [row(gain_cell, method) for method in comparison.methods]),
        ],
        notes=notes,
    )


def _text(estimate: Estimate | None, places: int, sign: bool = False) -> str:
    return numbers.with_interval(estimate, places, sign) if estimate else "–"
