"""The report of a sweep: what was selected and by which rule, every group of seeds, pictures, and what failed."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from lmarch.durable import write_text
from lmarch.reporting import numbers
from lmarch.reporting.figures import save_figure
from lmarch.reporting.grid import Block, Cell, Grid
from lmarch.reporting.page import (
    config_element,
    figure_element,
    notes_element,
    record_element,
    table_element,
    write_page,
)
from lmarch.reporting.results import Estimate
from lmarch.reporting.search import (
    VALUE,
    Tried,
    importance_figure,
    lengths_figure,
    map_figure,
    parallel_figure,
    slices_figure,
    varied,
)
from lmarch.reporting.tables import markdown_table
from lmarch.sweeping.plan import RULE, describe
from lmarch.sweeping.progress import duration, status_line
from lmarch.sweeping.space import SEED, SEED_FIELDS
from lmarch.sweeping.study import Study
from lmarch.sweeping.summary import Group, conditions, in_order, on_different_text, selected

TOLD_FROM = 10  # trials; with fewer, importances are chance
LINES = 8  # of a figure, beyond which nobody tells them apart
LENGTH, RATE = "model.trained_length", "train.learning_rate"


def write_sweep(study: Study, groups: Sequence[Group], folder: Path) -> Path:
    """`report.html`, `results.md`, and the figures as PNG, SVG and PDF; returns the page's path."""
    trials, fields = study.trials(), study.plan.space.fields
    tried = [{**one.point, VALUE: one.record["value"]} for one in trials if one.state == "finished"]
    best = selected(groups)
    parts = [f"<h1>{escape(study.workdir.resolve().name)}</h1>", f'<p class="facts">{escape(status_line(trials))}</p>']
    parts.append(f'<p class="verdict">{escape(_verdict(best, groups))}</p>')
    grid = groups_grid(groups, conditions(trials))
    parts += ["<h2>What was tried</h2>", table_element(grid), notes_element(_notes(groups))]
    write_text(folder / "results.md", markdown_table(grid))
    shown = [field for field in varied(tried, fields) if field not in (SEED, *SEED_FIELDS)]
    figures = _beyond(groups, conditions(trials)) | _map(groups, shown) | _figures(study, tried, shown)
    for name, (figure, description, caption) in figures.items():
        save_figure(figure, folder / name)
        parts += [f"<h2>{escape(description)}</h2>", figure_element(figure, description, caption)]
    failed = [one for one in trials if one.state == "failed"]
    if failed:
        parts += ["<h2>What failed</h2>", record_element((describe(one.point), one.record["reason"]) for one in failed)]
    plan = study.plan
    done = [one.record for one in trials if one.state in ("finished", "pruned")]
    facts = {
        "rule of selection": RULE,
        "trials": str(plan.size),
        "parameters": ", ".join(f"{size:,}" for size in sorted({record["parameters"] for record in done})) or "–",
        "time of those that ended well": duration(sum(record["seconds"] for record in done)),
        "their training FLOPs": f"{sum(record['training_flops'] for record in done):.3g}",
        "pruner": plan.pruner,
        "evaluation": f"suite {plan.suite}" if plan.suite else "none",
        "study": plan.where,
    }
    parts += ["<h2>Sweep</h2>", record_element(facts.items())]
    parts += ["<h2>The configuration that they vary</h2>", config_element(plan.base)]
    write_page(folder / "report.html", study.workdir.resolve().name, parts)
    return folder / "report.html"


def _verdict(best: Group | None, groups: Sequence[Group]) -> str:
    if best is None:
        if on_different_text(groups):
            return "Nothing is selected: trials were validated on different text, whose bits per byte do not compare."
        return "Nothing is selected yet: no group of seeds is complete."
    seeds = f" (mean of {len(best.trials)} seeds)" if len(best.trials) > 1 else ""
    value = _text(best.validation, _places([best.validation]))
    return f"Selected: {describe(best.point)}, with {value} bits per byte of validation text{seeds}."


def groups_grid(groups: Sequence[Group], measured: Sequence[tuple[str, str]]) -> Grid:
    """A row a group, the best first: validation, then bits per byte at each measured length; the selected one is strong."""
    best = selected(groups)
    places = _places([one for group in groups for one in (group.validation, *map(group.at, measured))])
    headings = ["seeds", "validation", *(f"{method} at {multiple} L".strip() for method, multiple in measured)]
    rows = []
    for group in sorted(groups, key=in_order):
        cells = [
            Cell(f"{len(group.finished)} of {len(group.trials)}" if not group.complete else str(len(group.trials)))
        ]
        cells.append(Cell(_text(group.validation, places), strong=group is best))
        cells += [Cell(_text(group.at(key), places)) for key in measured]
        rows.append((describe(group.point), cells))
    return Grid(headings, [Block("", rows)], corner="trial")


def _places(estimates: Sequence[Estimate | None]) -> int:
    """Decimals: as many as intervals over seeds leave, or three where nothing is repeated."""
    repeated = any(one and one.interval.high > one.interval.low for one in estimates)
    return numbers.decimals(estimates) if repeated else 3


def _text(estimate: Estimate | None, places: int) -> str:
    return numbers.with_interval(estimate, places) if estimate else "–"


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = [
        "Bits per byte, lower is better. Validation is what selects; the lengths are validation text too, in trained lengths "
        "(L), and have no say in the selection. Test text is for lmarch eval --final, of what was selected."
    ]
    if any(len(group.trials) > 1 for group in groups):
        notes.append("±: 95 % t interval of the mean over training seeds.")
    return notes


def _figures(study: Study, tried: list[dict], fields: list[str]) -> dict[str, tuple[Figure, str, str]]:
    made: dict[str, tuple[Figure, str, str]] = {}
    if len(tried) < 2 or not fields:
        return made
    made["slices"] = (slices_figure(tried, fields), "Every trial, field by field", "")
    if len(fields) > 1:
        caption = "A line is a trial; the best third stands out."
        made["parallel"] = (parallel_figure(tried, fields), "Parallel coordinates", caption)
    if len(tried) >= TOLD_FROM and len(fields) > 1 and (importances := study.importances):
        made["importance"] = (importance_figure(importances), "Which fields matter", "")
    return made


def _beyond(groups: Sequence[Group], measured: Sequence[tuple[str, str]]) -> dict[str, tuple[Figure, str, str]]:
    """How the best of the groups, by validation, read windows of several lengths."""
    methods = dict.fromkeys(method for method, _ in measured)
    found: list[tuple[str, dict[float, Estimate | None]]] = []
    for group in sorted(groups, key=in_order):
        for method in methods:
            line = {float(multiple): group.at((method, multiple)) for name, multiple in measured if name == method}
            if any(line.values()):
                found.append((f"{describe(group.point)} {method and f'read by {method}'}".strip(), line))
    if not any(len(line) > 1 for _, line in found):
        return {}
    caption = "Dashed: the trained length. What is beyond three times the lowest value is cut off."
    if any(len(group.trials) > 1 for group in groups):
        caption += " Ribbons: 95 % t intervals of the mean over training seeds."
    if len(found) > LINES:
        caption += f" The {LINES} of {len(found)} that are best by validation."
    return {"lengths": (lengths_figure(found[:LINES]), "Beyond the trained length", caption)}


def _map(groups: Sequence[Group], fields: list[str]) -> dict[str, tuple[Figure, str, str]]:
    """Two fields with few values each: learning rate and length where both vary."""
    whole = [group for group in groups if group.complete]
    tried = [{**group.point, VALUE: group.validation.value} for group in whole if group.validation]
    few = [f for f in fields if len({row.get(f) for row in tried}) <= 12 and all(f in row for row in tried)]
    free = free_fields(tried, [*(f for f in (RATE, LENGTH) if f in few), *(f for f in few if f not in (RATE, LENGTH))])
    if len(free) < 2:
        return {}
    pair, rest = free[:2], [field for field in free_fields(tried, [*free, *fields]) if field not in free[:2]]
    caption = "The lowest is framed." + " Means over seeds." * any(len(group.trials) > 1 for group in groups)
    if len(whole) < len(groups):
        caption += " Without those of which a trial failed, was given up or is not done."
    if rest:
        caption += f" Each with the best of {', '.join(rest)}."
    return {"map": (map_figure(tried, *pair), f"{pair[0]} × {pair[1]}", caption)}


def free_fields(tried: Sequence[Tried], fields: Sequence[str]) -> list[str]:
    """Without fields that go with an earlier one, as a batch size that is zipped with a length."""
    free: list[str] = []
    for field in fields:
        pairs = [{(str(row.get(one)), str(row.get(field))) for row in tried} for one in free]
        alone = [{str(row.get(one)) for row in tried} for one in free]
        if not any(len(both) == len(one) for both, one in zip(pairs, alone, strict=True)):
            free.append(field)
    return free
