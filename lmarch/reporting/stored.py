"""docs/results.md: what the stored results of experiments say, verdict by verdict."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmarch.reporting.contrast import axis_table, verdict_table, what_was_read
from lmarch.reporting.grid import Grid
from lmarch.reporting.results import Row

INTRODUCTION = """\
# Results

Made by `python docs/make_tables.py` from `results/`, which `lmarch reproduce NAME --publish` fills; do not edit by hand.

A *verdict* compares the published ordering with the obtained one on the same targets, never an absolute number of another
scale. PASS: the paired 95 % interval of the lead lies above 0, and so does the lead of every training seed. FAIL: both lie
below 0. INCONCLUSIVE: anything else. LOW_N: fewer than 30 documents. Nothing that failed is left out.
"""


def results_document(stored: Iterable[tuple[Mapping[str, Any], Sequence[Row], Sequence[Row]]]) -> str:
    """Markdown of (record, verdicts, results) of each experiment."""
    return "\n".join([INTRODUCTION, *(_section(*one) for one in stored)])


def _section(record: Mapping[str, Any], verdicts: Sequence[Row], results: Sequence[Row]) -> str:
    row, versions = results[0], record["versions"]
    parts = [
        f"## {record['name']} ({record['tier']})",
        f"{record['question']} Published: {record['source']}.",
        f"`{record['command']}`, {record['started'][:10]}, {_code(record)}, {record['device']}, "
        f"Python {versions['python']}, JAX {versions['jax']}. {what_was_read(row, '`')}; training seeds: {row['seeds']}.",
    ]
    if verdicts:
        parts.append(_markdown(verdict_table(verdicts)))
    for axis in dict.fromkeys(r["axis"] for r in results):
        chosen = [r for r in results if (r["axis"], r["metric"]) == (axis, record["metric"])]
        parts.append((f"Axis `{axis}`.\n\n" if axis else "") + _markdown(axis_table(chosen)))
    return "\n\n".join(parts) + "\n"


def _code(record: Mapping[str, Any]) -> str:
    """Which code it was: a commit, and whether the work tree had changes besides; or the version that was installed."""
    commit, _, changes = (record["git_commit"] or "").partition("+")
    if not commit:
        return f"lmarch {record['versions']['lmarch']}"
    return f"commit `{commit[:12]}`" + (f" with {changes}" if changes else "")


def _markdown(grid: Grid) -> str:
    tables = []
    for block in grid.blocks:
        lines = [[block.title, *grid.headings], ["---", *["---:"] * len(grid.headings)]]
        lines += [[f"`{label}`", *(cell.text for cell in cells)] for label, cells in block.rows]
        tables.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(tables)
