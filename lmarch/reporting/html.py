"""The report: one HTML file that needs no network and no script, for a screen, a phone or paper."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lmarch.evaluation.axes import AXES
from lmarch.reporting.figures import bits_per_byte_figure, inline_svg, loss_curve_figure
from lmarch.reporting.grid import CROP, Cell, Grid, results_grid
from lmarch.reporting.results import Row, by_axis, compare
from lmarch.reporting.verdict import verdict

STYLE_SHEET = Path(__file__).with_name("page.css")


def write_report(results: Sequence[Row], run: Mapping[str, Any], path: str | Path) -> None:
    """Writes the verdict, the figure, the table, how to read them and the record of the run to `path`."""
    axes = by_axis(results)
    rows = [row for of_axis in axes.values() for row in compare(of_axis).rows.values()]
    title = str(run.get("name") or rows[0]["run_id"])
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="facts">{escape(_subtitle(rows, run))}</p>']
    for axis, of_axis in axes.items():
        if axis:
            name = AXES[axis].title.capitalize()
            parts += [f"<h2>{escape(name)}</h2>", f"<p>{escape(AXES[axis].meaning)}</p>"]
        parts += [
            f'<p class="verdict">{escape(verdict(of_axis))}</p>',
            _figure(
                bits_per_byte_figure(of_axis), "Bits per byte and context gain by window length", _caption(of_axis)
            ),
            *([] if axis else ["<h2>Results</h2>"]),
            _results_table(results_grid(of_axis)),
        ]
    parts += [
        "<h2>What is measured, and how to read it</h2>",
        _reading_guide(rows),
    ]
    history = run.get("history") or []
    if any(entry.get(key) is not None for entry in history for key in ("loss", "validation_bpb")):
        parts += ["<h2>Training</h2>", _figure(loss_curve_figure(history), "Loss against training step")]
    parts += ["<h2>Evaluation</h2>", _record(_evaluation_facts(rows)), "<h2>Run</h2>", _record(_run_facts(run))]
    if run.get("config"):
        parts += ["<h2>Configuration</h2>", _record(_flat(run["config"]))]
    Path(path).write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE_SHEET.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _subtitle(rows: Sequence[Row], run: Mapping[str, Any]) -> str:
    facts = [_distinct(rows, "architecture").replace("_", " ")]
    if any(row.get("objective") not in (None, "causal_lm") for row in rows):
        facts.append(f"trained on {_distinct(rows, 'objective')}")
    if any(row.get("cross_positions") for row in rows):
        rule = _distinct(rows, "cross_positions")
        facts.append("cross-attention without positions" if rule == "none" else f"cross-attention at {rule} positions")
    if run.get("parameters") is not None:
        facts.append(f"{run['parameters']:,} parameters")
    facts.append(f"trained at {_distinct(rows, 'trained_length')} tokens")
    if run.get("trained_tokens") is not None:
        facts.append(f"{run['trained_tokens']:,} training tokens")
    return " · ".join(facts)


def _figure(figure: Figure, description: str, caption: str = "") -> str:
    svg = inline_svg(figure).replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    figcaption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="scroll">{svg}</div>{figcaption}</figure>'


def _caption(rows: Sequence[Row]) -> str:
    return (
        f"Left: bits per byte of the same targets at every window length. Right: what the window gains over a context "
        f"cut to the trained length, {_distinct(rows, 'trained_length')} tokens. Dotted: the unmodified model on the "
        f"cut context. A triangle gives the value of a point beyond the axis."
    )


def _results_table(grid: Grid) -> str:
    headings = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in grid.headings)
    bodies = []
    for block in grid.blocks:
        lines = [
            f'<tr class="block"><th scope="rowgroup" colspan="{len(grid.headings) + 1}">{escape(block.title)}</th></tr>'
        ]
        for label, cells in block.rows:
            kind = ' class="control"' if label == CROP else ""
            lines.append(f'<tr{kind}><th scope="row">{escape(label)}</th>{"".join(map(_table_cell, cells))}</tr>')
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    notes = ["<li>± is half the width of the 95 % interval. Bold: a gain whose interval lies above 0.</li>"]
    notes += [f"<li>{_superscript(note.mark)} {escape(note.text)}</li>" for note in grid.notes]
    return (
        f'<div class="scroll"><table class="results"><thead><tr><th scope="col">method</th>{headings}</tr></thead>'
        f'{"".join(bodies)}</table></div>\n<ul class="notes">{"".join(notes)}</ul>'
    )


def _table_cell(cell: Cell) -> str:
    text = f"<strong>{escape(cell.text)}</strong>" if cell.strong else escape(cell.text)
    return f"<td>{text}{_superscript(cell.marks)}</td>"


def _superscript(marks: str) -> str:
    return f'<sup class="mark">{escape(marks)}</sup>' if marks else ""


def _reading_guide(rows: Sequence[Row]) -> str:
    targets, windows, documents, split = (_distinct(rows, key) for key in ("targets", "n_windows", "n", "split"))
    terms = {
        "Same targets": f"Every method at every length scores the same tokens: the last {targets} of each of {windows} "
        f"windows from {documents} documents of the {split} split. A longer window only adds context to their left.",
        "Bits per byte": "The loss of all targets in bits over the bytes that they stand for, whatever the tokenizer. "
        "Lower is better; a model that knows nothing needs 8.",
        "Crop control": "The unmodified model on the same targets with its context cut to the trained length. A curve "
        "that stays flat is no achievement unless it lies below this line: cutting the context is flat too.",
        "Context gain": "The crop control minus the method at that length. Above 0 the method uses the longer context, "
        "at 0 it ignores it, below 0 the longer context hurts.",
        "Intervals": "95 % percentile intervals of a bootstrap over documents. All methods and lengths share the "
        "resamples, so differences are paired. They speak of this trained model on other documents, not of another "
        "training seed; and of many intervals, some will exclude 0 by chance.",
    }
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items()) + "</dl>"


def _evaluation_facts(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    keys = {
        "task": "task",
        "text": "corpus",
        "split": "split",
        "scored targets per window S": "targets",
        "documents": "n",
        "windows": "n_windows",
        "target bytes": "n_bytes",
        "beginning-of-sequence token": "bos",
        "attention": "implementation",
        "dtype": "dtype",
        "seeds: model": "seed_model",
        "seeds: data": "seed_data",
        "seeds: evaluation": "seed_eval",
        "checkpoint step": "checkpoint_step",
        "manifest sha256": "manifest_sha",
    }
    for name, key in keys.items():
        yield name, _distinct(rows, key)


def _run_facts(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rest of the record: the name, the configuration and the history have their own places."""
    for key, value in run.items():
        if key in ("name", "config", "history") or value is None:
            continue
        name = key.replace("_", " ")
        if key == "wall_seconds":
            yield "wall time", f"{math.ceil(value / 60)} min" if value >= 120 else f"{value:.0f} s"
        elif isinstance(value, Mapping):
            yield name, ", ".join(f"{package} {version}" for package, version in value.items())
        else:
            yield name, f"{value:,}" if type(value) is int else str(value)  # not a bool


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """('model.layers', '4'): the names that the command line takes."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _record(facts: Iterator[tuple[str, str]]) -> str:
    lines = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts)
    return f'<div class="scroll"><table class="record">{"".join(lines)}</table></div>'


def _distinct(rows: Sequence[Row], key: str) -> str:
    """The values of a key among the rows, in order, once each."""
    return ", ".join(dict.fromkeys(str(row[key]) for row in rows if row.get(key) is not None)) or "–"
