"""What must be said beside a number: too few documents, a method outside its design, a loss that is not finite."""

import collections
import dataclasses
import string

from lmarch.registry import rounded
from lmarch.reporting.results import Comparison


@dataclasses.dataclass(frozen=True)
class Footnote:
    """A remark on some cells of the table; the remark without a mark holds for the evaluation as a whole."""

    mark: str
    text: str
    cells: frozenset[tuple[str, float]]


def footnotes(comparison: Comparison) -> list[Footnote]:
    """LOW_N first, then every other remark once, each with the method and the lengths it holds for."""
    lengths_by_remark: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for (method, length), row in sorted(comparison.rows.items(), key=lambda item: item[0][1]):
        if row.get("out_of_design"):
            lengths_by_remark[method, row["out_of_design"]].append(length)
        if row.get("n_nonfinite"):
            remark = f"non-finite target losses: {row['n_nonfinite']}. None was dropped, so a mean over them is inf."
            lengths_by_remark[method, remark].append(length)
    notes = []
    low = [int(row["n"]) for row in comparison.rows.values() if row.get("low_n")]
    if low:
        items = "problems" if any(row["task"] == "problems" for row in comparison.rows.values()) else "documents"
        text = f"LOW_N: {min(low)} {items}, fewer than 30: too few for the intervals to be trusted."
        notes.append(Footnote("", text, frozenset()))
    for index, ((method, remark), lengths) in enumerate(lengths_by_remark.items()):
        where = f"{comparison.labels[method]} at {', '.join(map(str, lengths))}"
        cells = frozenset((method, length) for length in lengths)
        notes.append(Footnote(_mark(index), f"{where}: {rounded(remark)}", cells))
    return notes


def _mark(index: int) -> str:
    """a … z, aa, bb …"""
    letters = string.ascii_lowercase
    return letters[index % len(letters)] * (index // len(letters) + 1)
