"""Everything that is made of the results of an evaluation, beside them in its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.reporting.figures import save_figure
from lmarch.reporting.html import write_report
from lmarch.reporting.latex import latex_tables
from lmarch.reporting.results import Row, compare, distinct, select
from lmarch.reporting.sections import report_sections
from lmarch.reporting.summary import summary
from lmarch.reporting.tables import markdown_table, terminal_table, write_csv
from lmarch.reporting.verdict import verdicts


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
    (folder / "results.md").write_text("\n".join(markdown), encoding="utf-8")
    (folder / "results.tex").write_text(latex_tables(tables), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary(results), indent=1) + "\n", encoding="utf-8")
    write_report(results, run, folder / "report.html", sections)
    for title, grid in tables:
        console.print(terminal_table(grid, f"\n{title}"))
    console.print("", *verdicts(results), sep="\n")
    console.print(f"report: {folder / 'report.html'}")
