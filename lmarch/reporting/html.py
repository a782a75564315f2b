"""The report of an evaluation: verdict, sections, how to read them, and the record of the run, on one page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lmarch.data.runs_of_words import RUN
from lmarch.reporting.figures import loss_curve_figure
from lmarch.reporting.page import (
    config_element,
    figure_element,
    notes_element,
    record_element,
    table_element,
    write_page,
)
from lmarch.reporting.results import Row, distinct, select
from lmarch.reporting.sections import Section, report_sections
from lmarch.reporting.verdict import verdicts


def write_report(
    results: Sequence[Row], run: Mapping[str, Any], path: str | Path, sections: Sequence[Section] | None = None
) -> None:
    """Writes to `path` what the results say, how to read them and the record of the run.

    Args:
      sections: of these results, if they are drawn already.
    """
    title = str(run.get("name") or results[0]["run_id"])
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="facts">{escape(_subtitle(results, run))}</p>']
    parts += [f'<p class="verdict">{escape(text)}</p>' for text in verdicts(results)]
    if any(row.get("contaminated") for row in results):
        parts.append(f"<p>CONTAMINATED: {escape(_shared(results))} stand in the text of training too.</p>")
    for section in report_sections(results) if sections is None else sections:
        parts += [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.meaning)}</p>"]
        parts += [figure_element(one.figure, one.description, one.caption) for one in section.drawings]
        for grid in section.grids:
            parts += [table_element(grid), notes_element(grid.notes)]
    parts += ["<h2>How to read it</h2>", _reading_guide(results)]
    history = run.get("history") or []
    if any(entry.get(key) is not None for entry in history for key in ("loss", "validation_bpb")):
        parts += ["<h2>Training</h2>", figure_element(loss_curve_figure(history), "Loss against training step")]
    parts += ["<h2>Evaluation</h2>", record_element(_evaluation_facts(results))]
    parts += ["<h2>Run</h2>", record_element(_run_facts(run))]
    if run.get("config"):
        parts += ["<h2>Configuration</h2>", config_element(run["config"])]
    write_page(path, title, parts)


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


def _reading_guide(results: Sequence[Row]) -> str:
    tasks, terms = distinct(results, "task"), {}
    if paired := select(results, task="paired"):
        targets, windows, documents, split = (_distinct(paired, key) for key in ("targets", "n_windows", "n", "split"))
        terms = {
            "Same targets": f"Every method at every length scores the same tokens: the last {targets} of each of {windows} "
            f"windows from {documents} documents of the {split} split. A longer window only adds context to their left.",
            "Bits per byte": "The loss of all targets in bits over the bytes that they stand for, whatever the tokenizer. "
            "Lower is better; a model that knows nothing needs 8.",
            "Crop control": "The unmodified model on the same targets with its context cut to the trained length. A curve "
            "that stays flat is no achievement unless it lies below this line: cutting the context is flat too.",
            "Context gain": "The crop control minus the method at that length. Above 0 the method uses the longer context, "
            "at 0 it ignores it, below 0 the longer context hurts. Bold: the interval lies above 0, and at least 30 documents "
            "were scored.",
        }
    if "problems" in tasks:
        terms["Problems"] = (
            "Of symbols, keys and text that training on the task does not see; every method gets the same ones. One "
            "teacher-forced pass tells what greedy decoding would say. The interval of an exact match is Wilson's. Their crop "
            "control is the unmodified model on the same problems, cut to their last tokens, as many as a trained length."
        )
    terms["Intervals"] = (
        "± is half the width of a 95 % interval: a studentized bootstrap over documents, or problems. All methods and "
        "lengths share the resamples, so differences are paired. They speak of this trained model on other documents, not of "
        "another training seed; and of many intervals, some will exclude 0 by chance."
    )
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items()) + "</dl>"


def _evaluation_facts(results: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """What holds for all of the evaluation, then what was scored, task by task."""
    keys = {
        "attention": "implementation",
        "dtype": "dtype",
        "seeds: model": "seed_model",
        "seeds: data": "seed_data",
        "seeds: evaluation": "seed_eval",
        "checkpoint step": "checkpoint_step",
    }
    for name, key in keys.items():
        yield name, _distinct(results, key)
    if any("shared_text" in row for row in results):
        known = any(row.get("shared_text") is not None for row in results)
        yield "also in training", _shared(results) if known else "not known: there is no record of the text of training"
    scored = {
        "text": "corpus",
        "split": "split",
        "documents or problems": "n",
        "windows": "n_windows",
        "scored targets per window": "targets",
        "bytes": "n_bytes",
        "beginning-of-sequence token": "bos",
        "manifest sha256": "manifest_sha",
    }
    for task in distinct(results, "task"):
        rows = select(results, task=task)
        facts = ((name, [value for value in distinct(rows, key) if value is not None]) for name, key in scored.items())
        yield task.replace("_", " "), "; ".join(f"{name} {_some(values)}" for name, values in facts if values)


def _shared(results: Sequence[Row]) -> str:
    largest = max(row["shared_text"] for row in results if row.get("shared_text") is not None)
    return f"{100 * largest:.2g} % of the runs of {RUN} words of the scored documents"


def _some(values: Sequence[Any]) -> str:
    """The values, or the ends of their range and how many there are."""
    if len(values) <= 3:
        return ", ".join(map(str, values))
    if all(isinstance(value, int) for value in values):
        return f"{min(values):,} to {max(values):,}"
    return f"{values[0]} and {len(values) - 1} more"


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


def _distinct(rows: Sequence[Row], key: str) -> str:
    """The values of a key among the rows, in order, once each."""
    return ", ".join(dict.fromkeys(str(row[key]) for row in rows if row.get(key) is not None)) or "–"
