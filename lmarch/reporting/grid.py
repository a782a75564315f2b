"""What a table says, before it is drawn in a terminal, in Markdown, in LaTeX or in HTML."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from lmarch.evaluation.metrics import METRICS
from lmarch.reporting import numbers
from lmarch.reporting.footnotes import Footnote, footnotes
from lmarch.reporting.results import Comparison, Estimate

CROP = "crop control"


@dataclasses.dataclass(frozen=True)
class Cell:
    """`strong` is kept for a difference whose interval excludes 0: a context gain above 0 that rests on enough documents."""

    text: str
    marks: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Block:
    title: str  # may be empty
    rows: list[tuple[str, list[Cell]]]


@dataclasses.dataclass(frozen=True)
class Grid:
    """`headings` has one entry a column, less that of the labels; so has every row of every block."""

    headings: list[str]
    blocks: list[Block]
    notes: list[Footnote] = dataclasses.field(default_factory=list)
    corner: str = "method"  # heading of the labels


def results_grid(comparison: Comparison) -> Grid:
    """Bits per byte of every method and of the crop control, then context gain."""
    places = numbers.decimals(
        estimate(method, length)
        for estimate in (comparison.value, comparison.gain)
        for method in comparison.methods
        for length in comparison.lengths
    )
    marks = _marks(notes := footnotes(comparison))

    def gain_cell(method: str, length: float) -> Cell:
        gain = comparison.gain(method, length)
        low_n = comparison.rows.get((method, length), {}).get("low_n")
        return Cell(_text(gain, places, sign=True), strong=bool(gain and gain.interval.low > 0 and not low_n))

    def value_cell(method: str, length: float) -> Cell:
        return Cell(_text(comparison.value(method, length), places), marks(method, length))

    crop_row = CROP, [Cell(_text(comparison.crop(length), places)) for length in comparison.lengths]
    return Grid(
        headings=_headings(comparison),
        blocks=[
            Block("bits per byte", [*_rows(comparison, value_cell), crop_row]),
            Block("context gain", _rows(comparison, gain_cell)),
        ],
        notes=notes,
    )


def values_grid(blocks: Mapping[str, Comparison], sign: bool = False) -> Grid:
    """A block of values for each of several measurements, by title; shares in percent. The notes are of the first."""
    first = next(iter(blocks.values()))
    lengths = sorted({length for comparison in blocks.values() for length in comparison.lengths})
    marks = _marks(notes := footnotes(first))
    made = []
    for title, comparison in blocks.items():
        share = next(iter(comparison.rows.values()))["metric"] in SHARES
        of = comparison.share if share else comparison.value
        places = numbers.decimals((of(*cell) for cell in comparison.rows), fewest=1 if share else 2)

        def cell(method: str, length: float, of: _Quantity = of, places: int = places) -> Cell:
            return Cell(_text(of(method, length), places, sign), marks(method, length))

        crops = [(comparison.crop_share if share else comparison.crop)(length) for length in lengths]
        control = [(CROP, [Cell(_text(crop, places)) for crop in crops])] if any(crops) else []
        made.append(Block(f"{title}, %" if share else title, [*_rows(comparison, cell, lengths), *control]))
    return Grid(_headings(first, lengths), made, notes)


def cost_grid(comparison: Comparison, title: str = "tokens per second") -> Grid:
    """Tokens per second of every method at every length."""

    def cell(method: str, length: float) -> Cell:
        speed = comparison.speed(method, length)
        return Cell(f"{speed.value:,.0f}" if speed else "–")

    return Grid(_headings(comparison), [Block(title, _rows(comparison, cell))])


SHARES = [name for name, metric in METRICS.items() if metric.higher_is_better]  # between 0 and 1; shown in percent

_Quantity = Callable[[str, float], Estimate | None]


def _rows(
    comparison: Comparison, cell: Callable[[str, float], Cell], lengths: Sequence[float] = ()
) -> list[tuple[str, list[Cell]]]:
    lengths = lengths or comparison.lengths
    return [(comparison.labels[method], [cell(method, n) for n in lengths]) for method in comparison.methods]


def _headings(comparison: Comparison, lengths: Sequence[float] = ()) -> list[str]:
    return [f"{length} (×{comparison.multiple(length)})" for length in lengths or comparison.lengths]


def _marks(notes: Sequence[Footnote]) -> Callable[[str, float], str]:
    return lambda method, length: ",".join(note.mark for note in notes if (method, length) in note.cells)


def _text(estimate: Estimate | None, places: int, sign: bool = False) -> str:
    return numbers.with_interval(estimate, places, sign) if estimate else "–"
