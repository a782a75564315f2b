"""docs/results.md: what the stored results of experiments say, verdict by verdict."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmarch.evaluation.claims import FEWEST_SEEDS, RULE, RULE_NUMBER
from lmarch.evaluation.rejudged import Rejudged, rejudge
from lmarch.reporting import numbers
from lmarch.reporting.contrast import axis_table, claimed, verdict_table, what_was_read
from lmarch.reporting.grid import Block, Cell, Grid
from lmarch.reporting.results import Estimate, Row, distinct, estimate

INTRODUCTION = f"""\
# Results

Made by `python docs/make_tables.py` from `results/`, which `lmarch reproduce NAME --final --publish` fills; do not edit by
hand.

{RULE} LOW_N: fewer than 30 documents.

Settings that were looked at and dropped stand with their experiment, as far as they are known.
"""
EARLIER = """\
Results below that are marked *to be measured again* were judged by an earlier rule: an interval over documents alone, and three
training seeds of one sign. Of {passed} that passed, {found} exclude 0 once training seeds are in the interval and all claims of
the experiment are counted ({alone} before they are); none has the {fewest} seeds that a PASS takes now. Test text was also what
their settings were looked at on, and model and data seeds were one number.
"""
Of = tuple[Mapping[str, Any], Sequence[Row], Sequence[Row]]


def results_document(stored: Iterable[Of]) -> str:
    """Markdown of (record, verdicts, results) of each experiment."""
    stored = list(stored)
    again = {record["name"]: rejudge(verdicts) for record, verdicts, _ in stored if _earlier(record)}
    parts = [INTRODUCTION, *([_summary(again)] if any(again.values()) else [])]
    return "\n".join([*parts, *(_section(*one, again.get(one[0]["name"])) for one in stored)])


def _earlier(record: Mapping[str, Any]) -> bool:
    """Whether it was judged by another rule than today's."""
    return record.get("rule") != RULE_NUMBER


def _summary(again: Mapping[str, Sequence[Rejudged]]) -> str:
    passed = [one for of_experiment in again.values() for one in of_experiment if one.row["status"] == "PASS"]
    found, alone = sum(one.found for one in passed), sum(one.interval.excludes(0.0) for one in passed)
    return EARLIER.format(passed=len(passed), found=found, alone=alone, fewest=FEWEST_SEEDS)


def _section(
    record: Mapping[str, Any], verdicts: Sequence[Row], results: Sequence[Row], again: Sequence[Rejudged] | None
) -> str:
    row, versions = results[0], record["versions"]
    read = dict.fromkeys(what_was_read(one, "`") for one in results)
    parts = [
        f"## {record['name']} ({record['tier']})",
        *(["*To be measured again.*"] if again is not None else []),
        f"{record['question']} Published: {record['source']}.",
        f"`{record['command']}`, {record['started'][:10]}, {_code(record)}, {record['device']}, "
        f"Python {versions['python']}, JAX {versions['jax']}. {'; '.join(read)}; training seeds: {row['seeds']}.",
    ]
    if verdicts:
        parts.append(_markdown(verdict_table(verdicts) if again is None else _rejudged_table(again)))
    if record.get("tried"):
        dropped = (f"| {one['setting']} | {one['outcome']} |" for one in record["tried"])
        parts.append("\n".join(["| tried and dropped | what it gave |", "| --- | --- |", *dropped]))
    texts = distinct(results, "corpus")
    for text, axis in dict.fromkeys((r["corpus"], r["axis"]) for r in results):
        chosen = [r for r in results if (r["corpus"], r["axis"], r["metric"]) == (text, axis, record["metric"])]
        where = f"Text `{text}`." if len(texts) > 1 else "", f"Axis `{axis}`." if axis else ""
        parts += filter(None, (" ".join(filter(None, where)), _markdown(axis_table(chosen))))
    return "\n\n".join(parts) + "\n"


def _rejudged_table(again: Sequence[Rejudged]) -> Grid:
    """Each earlier verdict, what it rested on, and the lead's interval over seeds and documents."""
    rows = []
    for one in again:
        then = estimate(one.row, "lead", "lead")
        assert then is not None
        places = numbers.decimals([then])
        cells = [
            Cell(one.row["status"]),
            Cell(numbers.with_interval(then, places, sign=True)),
            Cell(", ".join(numbers.number(lead, places, sign=True) for lead in one.row["seed_leads"])),
            Cell(numbers.with_interval(Estimate(then.value, one.interval), places, sign=True)),
            Cell(f"{one.p:.2g}"),
        ]
        rows.append((f"{claimed(one.row)}, {one.row['metric']} at {one.row['multiple']:g}×", cells))
    headings = ["then", "lead, over documents alone", "seeds", "over seeds and documents", "p"]
    return Grid(headings, [Block("", rows)], corner="published")


def _code(record: Mapping[str, Any]) -> str:
    """Which code it was: a commit, and whether the work tree had changes besides; or the version that was installed."""
    commit, _, changes = (record["git_commit"] or "").partition("+")
    if not commit:
        return f"lmarch {record['versions']['lmarch']}"
    return f"commit `{commit[:12]}`" + (f" with {changes.replace(':', ' ')}" if changes else "")


def _markdown(grid: Grid) -> str:
    tables = []
    for block in grid.blocks:
        lines = [[block.title or grid.corner, *grid.headings], ["---", *["---:"] * len(grid.headings)]]
        lines += [[f"`{label}`", *(cell.text for cell in cells)] for label, cells in block.rows]
        tables.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(tables)
