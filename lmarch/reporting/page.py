"""Pieces of a page: one HTML file that needs no network and no script, for a screen, a phone or paper."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lmarch.durable import write_text
from lmarch.reporting.figures import inline_svg
from lmarch.reporting.footnotes import Footnote
from lmarch.reporting.grid import CROP, Block, Cell, Grid

STYLE_SHEET = Path(__file__).with_name("page.css")


def write_page(path: str | Path, title: str, parts: Iterable[str]) -> None:
    write_text(
        Path(path),
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE_SHEET.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n",
    )


FULL_WIDTH = 8.2  # inches of a figure that fills the column; a narrower one keeps the size of its letters


def figure_element(figure: Figure, description: str, caption: str = "") -> str:
    share = min(1.0, figure.get_figwidth() / FULL_WIDTH)
    size = f' style="width: {share:.0%}; min-width: {42 * share:.0f}rem"' if share < 1 else ""
    svg = inline_svg(figure).replace("<svg", f'<svg role="img" aria-label="{escape(description)}"{size}', 1)
    figcaption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="scroll">{svg}</div>{figcaption}</figure>'


def table_element(grid: Grid) -> str:
    headings = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in [grid.corner, *grid.headings])
    bodies = "".join(_body(block, 1 + len(grid.headings)) for block in grid.blocks)
    return f'<div class="scroll"><table class="results"><thead><tr>{headings}</tr></thead>{bodies}</table></div>'


def notes_element(notes: Sequence[str | Footnote]) -> str:
    items = (note if isinstance(note, Footnote) else Footnote("", note, frozenset()) for note in notes)
    lines = [f"<li>{_superscript(note.mark)} {escape(note.text)}</li>" for note in items]
    return f'<ul class="notes">{"".join(lines)}</ul>' if lines else ""


def record_element(facts: Iterable[tuple[str, str]]) -> str:
    lines = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts)
    return f'<div class="scroll"><table class="record">{"".join(lines)}</table></div>'


def config_element(config: Mapping[str, Any]) -> str:
    """Its fields, by the names that the command line takes."""
    return record_element(_flat(config))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """('model.layers', '4')"""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _body(block: Block, columns: int) -> str:
    lines = []
    if block.title:
        lines.append(f'<tr class="block"><th scope="rowgroup" colspan="{columns}">{escape(block.title)}</th></tr>')
    for label, cells in block.rows:
        kind = ' class="control"' if label == CROP else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(label)}</th>{"".join(map(_cell, cells))}</tr>')
    return f"<tbody>{''.join(lines)}</tbody>"


def _cell(cell: Cell) -> str:
    text = f"<strong>{escape(cell.text)}</strong>" if cell.strong else escape(cell.text)
    return f"<td>{text}{_superscript(cell.marks)}</td>"


def _superscript(marks: str) -> str:
    return f'<sup class="mark">{escape(marks)}</sup>' if marks else ""
