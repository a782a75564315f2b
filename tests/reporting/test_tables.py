import csv
import io
import math
import re
import subprocess
import sys

import pytest
from rich.console import Console
from synthetic_results import CURVES, LENGTHS, row

from lmarch.errors import UserError
from lmarch.reporting.grid import results_grid, values_grid
from lmarch.reporting.results import compare
from lmarch.reporting.tables import markdown_table, terminal_table, write_csv


def terminal(results):
    console = Console(width=140, file=io.StringIO())
    console.print(terminal_table(results_grid(compare(results))))
    return console.file.getvalue()


def markdown(results):
    return markdown_table(results_grid(compare(results)))


def line_of(text, label, nth=0):
    return [line for line in text.splitlines() if label in line][nth]


def test_terminal_table_reads_methods_by_length(results):
    text = terminal(results)
    assert re.search(r"128 \(×1\) +256 \(×2\) +512 \(×4\) +1024 \(×8\)", text)
    assert "3.60 ±0.04" in line_of(text, "rope")
    assert line_of(text, "crop control").count("1.64 ±0.04") == len(LENGTHS)
    assert "−1.96 ±0.01" in line_of(text, "rope", nth=2)  # after rerope: the first line of the gain block


def test_a_table_of_few_decimals_grows_where_intervals_are_narrow():
    narrow = [row("rope", "rope", None, length, 1.64 + 0.01 * i, half=0.0012) for i, length in enumerate(LENGTHS)]
    assert "1.650 ±0.001" in markdown(narrow)


def test_a_lopsided_interval_is_given_by_its_ends():
    assert "2.00 [1.99, 2.60]" in markdown([row("rope", "rope", None, 256, 2.0, ci_low=1.99, ci_high=2.6)])


def test_huge_values_print_their_order_and_infinite_ones_say_so(broken):
    huge = row("rope", "rope", None, 256, 4321.0, half=2000.0)
    assert "| >1e3 " in markdown([huge])
    assert "inf [2.40, inf]" in markdown(broken)
    undefined = row("rope", "rope", None, 256, math.inf, gain=math.nan, gain_low=-math.inf, gain_high=math.inf)
    assert "undefined [−inf, inf]" in markdown([undefined])


def test_bold_is_kept_for_gains_proven_above_zero(results, broken):
    bold = re.findall(r"\*\*(.*?)\*\*", markdown(results))
    assert bold == ["+0.02 ±0.01", "+0.02 ±0.01"]  # rerope at 512 and 1024; its +0.01 at 256 may be chance
    assert "**" not in markdown(broken)  # too few documents


def test_footnotes_name_few_documents_designs_and_losses(broken):
    for text in (terminal(broken), markdown(broken)):
        assert "LOW_N: 12 documents" in text
        assert "rerope w64 at 512, 1024: window 64 is not below the trained length" in text
        assert "ntk ×8 at 1024: non-finite target losses: 3" in text
    assert "1.62 ±0.04<sup>a</sup> | 1.62 ±0.04<sup>a</sup> |" in markdown(broken)


def test_good_results_have_no_footnotes(results):
    assert "LOW_N" not in terminal(results)
    assert "<sup>" not in markdown(results)


def test_what_was_not_evaluated_is_a_dash(broken):
    assert re.search(r"linear ×8 \| 2.48 ±0.04 \| 2.51 ±0.04 \| – \|", markdown(broken))


def test_markdown_rows_have_one_cell_a_column(results):
    hostile = [result | {"label": "a|b"} if result["method"] == "rope" else result for result in results]
    rows = [line for line in markdown(hostile).splitlines() if line]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {len(LENGTHS) + 2}


def test_csv_holds_every_number_exactly(results, tmp_path):
    write_csv(compare(results), tmp_path / "results.csv")
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == [name for name, _, _ in CURVES] + ["crop control"]
    read = {line["method"]: line for line in lines}
    for result in results:
        length = result["length"]
        stored = [float(read[result["method"]][f"{length}{suffix}"]) for suffix in ("", "_low", "_high")]
        assert stored == [result["value"], result["ci_low"], result["ci_high"]]
    assert float(read["crop control"]["1024"]) == 1.640


def test_csv_keeps_infinity_and_leaves_gaps_empty(broken, tmp_path):
    write_csv(compare(broken), tmp_path / "results.csv")
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        read = {line["method"]: line for line in csv.DictReader(file)}
    assert float(read["ntk:factor=8"]["1024"]) == math.inf
    assert read["linear:factor=8"]["512"] == ""


def test_methods_with_one_label_are_told_apart_by_their_full_names():
    rows = [row(method, "ntk", 4.0, 256, 2.0) for method in ("ntk:factor=4", "ntk:factor=8")]
    assert "ntk:factor=4" in markdown(rows)


def test_a_table_is_of_the_rows_that_are_asked_for(results):
    others = [*results, results[0] | {"task": "needle", "metric": "accuracy"}]
    assert markdown_table(results_grid(compare(others, task="paired"))) == markdown(results)


def test_shares_are_given_in_percent_below_their_names():
    rows = [
        row("rope", "rope", None, 256, share, metric=metric, ci_low=share - 0.05, ci_high=share + 0.05)
        for metric, share in (("exact_match", 0.5), ("accuracy", 0.9), ("nll", 1.5))
    ]
    blocks = {metric: compare(rows, metric=metric) for metric in ("exact_match", "accuracy", "nll")}
    text = markdown_table(values_grid(blocks))
    for part in (
        "| exact_match, % | 256 (×2) |",
        "| 50.0 ±5.0 |",
        "| 90.0 ±5.0 |",
        "| nll | 256 (×2) |",
        "| 1.50 ±0.05 |",
    ):
        assert part in text


def test_two_runs_in_one_table_are_refused(results):
    with pytest.raises(UserError, match="two results for 'rope' at length 128"):
        markdown([*results, *(row | {"value": 0.5} for row in results)])
    with pytest.raises(UserError, match="one trained length"):
        markdown([results[0], results[1] | {"trained_length": 256}])
    with pytest.raises(UserError, match="no rows"):
        markdown([])


def test_tables_and_verdicts_do_without_matplotlib():
    script = "import sys, lmarch.reporting.tables, lmarch.reporting.verdict; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
