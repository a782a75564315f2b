"""Everything that is made of the results of an evaluation, beside them in its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.durable import write_json, write_text
from lmarch.evaluation.rows import finite
from lmarch.evaluation.run import evaluate
from lmarch.loading import Model
from lmarch.reporting.figures import save_figure
from lmarch.reporting.html import write_report
from lmarch.reporting.latex import latex_tables
from lmarch.reporting.results import Row, compare, distinct, select
from lmarch.reporting.sections import report_sections
from lmarch.reporting.summary import summary
from lmarch.reporting.tables import markdown_table, terminal_table, write_csv
from lmarch.reporting.verdict import verdicts
from lmarch.training.metrics import read_metrics
from lmarch.training.workdir import read_record


def evaluate_and_report(model: Model, overrides: Sequence[tuple[str, str]] = ()) -> int:
    """What `lmarch eval` does; the exit status: 0, or 3 if some value was not finite."""
    done, console = evaluate(model, overrides), Console(highlight=False, soft_wrap=True)
    if done.rows:
        write_everything(done.rows, _record(model), done.folder, console)
    else:
        console.print("nothing was measured: no report")
    return done.status


def _record(model: Model) -> dict[str, Any]:
    """How the model came about, for the report."""
    run = read_record(model.workdir)
    return {
        "name": model.workdir.name,
        "config": model.config.to_dict(),
        "wall_seconds": run.pop("seconds", None),
        "validation_bpb": run.pop("validation_bits_per_byte", None),
        **run,
        "history": [
            {"step": m["step"], "loss": m.get("loss"), "validation_bpb": m.get("validation_bits_per_byte")}
            for m in read_metrics(model.workdir)
        ],
    }


def write_everything(results: Sequence[Row], run: Mapping[str, Any], folder: Path, console: Console) -> None:
    """`report.html`, PNG, SVG and PDF of every figure, `results.md`, `.tex`, `.csv`, `summary.json`; tables on the console."""
    console.print("  drawing tables, figures and the report")
    sections = report_sections(results)
    tables = [(section.title, grid) for section in sections for grid in section.grids]
    for section in sections:
        for drawing in section.drawings:
            save_figure(drawing.figure, folder / drawing.name)
    for axis in distinct(select(results, task="paired"), "axis"):
        write_csv(compare(results, task="paired", axis=axis), folder / f"results{'-' + axis if axis else ''}.csv")
    markdown = (
        f"## {section.title}\n\n{section.meaning}\n\n" + "\n".join(map(markdown_table, section.grids))
        for section in sections
    )
    write_text(folder / "results.md", "\n".join(markdown))
    write_text(folder / "results.tex", latex_tables(tables))
    write_json(folder / "summary.json", finite(summary(results)))
    write_report(results, run, folder / "report.html", sections)
    for title, grid in tables:
        console.print(terminal_table(grid, f"\n{title}"))
    console.print("", *verdicts(results), sep="\n")
    console.print(f"report: {folder / 'report.html'}")
