"""Tables in LaTeX, to be `\\input`: they need the package booktabs and nothing else."""

from collections.abc import Iterable, Sequence

from lmarch.reporting.grid import Block, Cell, Grid

INTRODUCTION = r"""% Made from stored results; needs \usepackage{booktabs}.
% Intervals are at 95 %. Bold: the interval of a difference excludes 0.
"""

# What has a meaning in LaTeX, or no glyph in its oldest fonts
SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        "[": "{[}",  # after \\, a bracket would be a length
        "]": "{]}",
        "±": r"$\pm$",
        "−": "$-$",
        "×": r"$\times$",
        "–": "--",
        "′": "$'$",
        "\n": " ",
    }
)


def latex_tables(tables: Iterable[tuple[str, Grid]], remarks: Iterable[str] = ()) -> str:
    """A floating table for each caption and grid; the remarks are for who writes the text around them."""
    comments = "".join(f"% {' '.join(remark.split())}\n" for remark in remarks)
    return INTRODUCTION + comments + "".join(f"\n{_table(caption, grid)}" for caption, grid in tables)


def escape(text: str) -> str:
    return text.translate(SPECIAL)


def _table(caption: str, grid: Grid) -> str:
    blocks = [_block(block, len(grid.headings)) for block in grid.blocks]
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape(caption)}}}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * len(grid.headings)}@{{}}}}",
        r"\toprule",
        _row([grid.corner, *grid.headings]),
        *(line for block in blocks for line in [r"\midrule", *block]),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {_superscript(note.mark)}{escape(note.text)}" for note in grid.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _block(block: Block, columns: int) -> list[str]:
    title = [rf"\multicolumn{{{1 + columns}}}{{@{{}}l}}{{\textit{{{escape(block.title)}}}}} \\"] if block.title else []
    return title + [" & ".join([escape(label), *map(_cell, cells)]) + r" \\" for label, cells in block.rows]


def _row(texts: Sequence[str]) -> str:
    return " & ".join(map(escape, texts)) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return (rf"\textbf{{\boldmath {text}}}" if cell.strong else text) + _superscript(cell.marks)


def _superscript(marks: str) -> str:
    return rf"\textsuperscript{{{escape(marks)}}}" if marks else ""
