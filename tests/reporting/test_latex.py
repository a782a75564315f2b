import re

import pytest

from lmarch.reporting.footnotes import Footnote
from lmarch.reporting.grid import Block, Cell, Grid, results_grid
from lmarch.reporting.latex import escape, latex_tables
from lmarch.reporting.results import compare


def latex(results):
    return latex_tables([("Bits per byte", results_grid(compare(results)))])


def bold(source):
    return re.findall(r"\\textbf\{\\boldmath (.*?)\}", source)


def test_bold_is_kept_for_gains_proven_above_zero(results, broken):
    assert bold(latex(results)) == [r"+0.02 $\pm$0.01"] * 2  # rerope at 512 and 1024; its +0.01 at 256 may be chance
    assert bold(latex(broken)) == []  # too few documents


def test_intervals_and_multiples_are_set_as_mathematics(results):
    source = latex(results)
    assert r"3.60 $\pm$0.04" in source
    assert r"1024 ($\times$8)" in source
    assert r"$-$1.96 $\pm$0.01" in source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("a_b", r"a\_b"),
        ("50 %", r"50 \%"),
        ("R&D #1 $x$", r"R\&D \#1 \$x\$"),
        ("{x}", r"\{x\}"),
        ("a\\b", r"a\textbackslash{}b"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        (">1e3", r"$>$1e3"),
        ("[1, 2]", "{[}1, 2{]}"),
        ("–", "--"),
    ],
)
def test_what_latex_would_take_for_a_command_is_escaped(text, source):
    assert escape(text) == source


def hostile():
    special = r"\x_1{2}%&#$~^<>|[]"
    return [
        (
            special,
            Grid(
                [special, "b"],
                [Block(special, [(special, [Cell(special, special, True), Cell("–")])])],
                [Footnote("a", special, frozenset())],
            ),
        )
    ]


def test_a_file_of_hostile_strings_keeps_its_structure():
    source = latex_tables(hostile())
    text = re.sub(r"(?m)^%.*$", "", source)  # comments
    text = re.sub(r"\\[\\{}%&#$_]", "", text.replace(r"\\", "\n"))  # escaped, and ends of rows
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0
    assert not set("%#_~^") & set(re.sub(r"\$[^$]*\$", "", text))
    assert text.count("&") == 2 * 2  # two columns beside the labels, in the heading and in the only row


def test_tables_are_well_formed_and_need_booktabs_only(results, broken):
    source = latex_tables([("one", results_grid(compare(results))), ("two", results_grid(compare(broken)))])
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", source):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    assert source.count(r"\toprule") == source.count(r"\bottomrule") == source.count(r"\caption{") == 2
    for row in re.findall(r"(?m)^(?!\\multicolumn)(.*) \\\\$", source):
        assert row.count("&") == 4  # four lengths
    assert source.isascii()
    needed = {"toprule", "midrule", "bottomrule"}
    basic = {
        "begin",
        "end",
        "centering",
        "small",
        "caption",
        "multicolumn",
        "textit",
        "textbf",
        "boldmath",
        "pm",
        "times",
    }
    basic |= {"par", "footnotesize", "textsuperscript", "usepackage"}
    assert set(re.findall(r"\\([a-zA-Z]+)", source)) <= needed | basic


def test_footnotes_stand_below_their_table(broken):
    source = latex(broken)
    assert source.index(r"\end{tabular}") < source.index(r"LOW\_N: 12 documents")
    assert r"\textsuperscript{a}rerope w64 at 512, 1024" in source
    assert r"$\pm$0.04\textsuperscript{a}" in source
