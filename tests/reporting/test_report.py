"""Everything that is made of an evaluation's results, whatever was measured."""

import io
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console
from synthetic_results import everything

from lmarch.reporting.report import write_everything
from lmarch.reporting.results import select

SECTIONS = {
    "paired": ["Bits per byte", "Cost"],
    "far_copies": ["Far copies"],
    "by_position": ["Loss by position"],
    "repeated": ["Repeated text"],
    "problems": ["Task: copy", "Task: needle:keys=2"],
    "perplexity": ["Perplexity"],
    "attention": ["Attention"],
}
ORDER = [
    "At a glance", "Bits per byte", "Far copies", "Loss by position", "Repeated text", "Task: copy", "Task: needle:keys=2",
    "Perplexity", "Attention", "Cost", "How to read it", "Training", "Evaluation", "Run", "Configuration",
]  # fmt: skip
WITH_TABLES = ORDER[1:10]


def written(results, run, folder):
    console = Console(width=140, file=io.StringIO())
    write_everything(results, run, folder, console)
    return (folder / "report.html").read_text(encoding="utf-8"), console.file.getvalue()


def headings(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


@pytest.fixture(scope="module")
def rows():
    return everything()


@pytest.fixture(scope="module")
def whole(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run = {"name": "demo", "config": {"x": 1}, "history": [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmarch.reporting.report.save_figure", lambda *_: None)
        return folder, *written(rows, run, folder)


def test_a_report_of_everything_has_its_sections_in_order(whole):
    _, page, _ = whole
    assert headings(page) == ORDER
    assert page.index("Vanilla rope at 8×") < page.index("<h2>")  # the verdict comes first


def test_every_section_says_what_is_measured_and_shows_it(whole):
    _, page, _ = whole
    for section in page.split("<h2>")[1:11]:
        title, _, body = section.partition("</h2>")
        assert re.match(r"\s*<p>[^<]{40,}</p>", body), title
        assert ("<table" in body) == (title in WITH_TABLES), title
        assert ("<svg" in body) == (title not in ("Perplexity", "Attention")), title
    assert "comparison with those only" in page


def test_the_page_reaches_for_nothing(whole):
    _, page, _ = whole
    assert not re.search(r"<(script|link|img|iframe|image)\b", page)
    assert all(value.startswith("#") for value in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert all(value.startswith("#") for value in re.findall(r"url\((.*?)\)", page))
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)


def test_tables_and_figures_stay_in_boxes_that_scroll(whole):
    _, page, _ = whole
    assert page.count("<table") + page.count("<svg") == len(re.findall(r'<div class="scroll"><(?:table|svg)', page))


@pytest.mark.slow
def test_every_figure_is_stored_as_picture_and_vectors(rows, run, tmp_path):
    written(rows, run, tmp_path)
    names = {file.stem for file in tmp_path.glob("*.png")}
    tasks = {
        f"{kind}-{task}"
        for kind, task in [
            ("problems", "copy"),
            *((k, "needle_keys=2") for k in ("problems", "by_depth", "by_distance")),
        ]
    }
    assert names == {"headline", "bits_per_byte", "far_copies", "by_position", "repeated", "cost", *tasks}
    for name in names:
        ElementTree.parse(tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_console_and_the_files_of_tables_hold_every_task(whole):
    folder, _, console = whole
    for text in (
        console,
        (folder / "results.md").read_text(),
        (folder / "results.tex").read_text().replace(r"\_", "_"),
    ):
        for title in WITH_TABLES:
            assert title in text
        for part in ("ppl_slide", "exact match", "slope, nats per token", "tokens per second", "context gain"):
            assert part in text


def test_the_summary_holds_every_stored_number(rows, whole):
    folder, *_ = whole
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {
        "paired", "far_copies", "by_position", "slope", "repeated", "perplexity", "attention",
        "problems/copy", "problems/needle:keys=2", "by_depth/needle:keys=2",
    }  # fmt: skip
    for row in rows:
        task = f"{row['task']}/{row['corpus']}" if row["task"] in ("problems", "by_depth") else row["task"]
        place = str(row["length"])
        if row["task"] == "by_depth":
            place += f" at depth {row['depth']}"
        if row["task"] == "attention":
            place += f" at layer {row['layer']}"
        if row["task"] == "by_position":
            place = f"{row['from_position']}-{row['to_position']}"
        cell = summary[task][row["metric"]][row["method"]][place]
        assert cell == {"value": row["value"], "low": row.get("ci_low"), "high": row.get("ci_high"), "n": row["n"]}
        if row["task"] == "paired":
            gain = summary["paired"]["gain"][row["method"]][place]
            assert gain == {"value": row["gain"], "low": row["gain_low"], "high": row["gain_high"], "n": row["n"]}


@pytest.mark.usefixtures("figures_are_empty_files")
def test_infinities_are_null_in_the_summary(broken, tmp_path):
    written(broken, {}, tmp_path)
    cell = json.loads((tmp_path / "summary.json").read_text())["paired"]["bpb"]["ntk:factor=8"]["1024"]
    assert (cell["value"], cell["high"]) == (None, None)
    assert "Infinity" not in (tmp_path / "summary.json").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("figures_are_empty_files")
@pytest.mark.parametrize("task", [name for name in SECTIONS])
def test_one_part_alone_is_reported(rows, task, run, tmp_path):
    page, console = written(select(rows, task=task), run, tmp_path)
    assert [title for title in headings(page) if title in WITH_TABLES] == SECTIONS[task]
    assert ('class="verdict"' in page) == (task == "paired")
    assert (tmp_path / "results.csv").exists() == (task == "paired")
    assert ("Context gain" in page) == (task in ("paired", "far_copies"))
    assert "report: " in console


@pytest.mark.slow
@pytest.mark.usefixtures("figures_are_empty_files")
def test_axes_have_sections_of_their_own_beside_problems_without_one(rows, run, tmp_path):
    measured = [
        row | {"axis": axis, "architecture": "encoder_decoder"}
        for axis in ("prefix", "both")
        for row in rows
        if row["task"] in ("paired", "far_copies") or (row["task"] == "repeated" and axis == "prefix")
    ]
    page, console = written([*measured, *select(rows, task="problems")], run, tmp_path)
    assert headings(page)[:10] == [
        "At a glance: the prefix grows", "At a glance: both grow",
        "Bits per byte: the prefix grows", "Bits per byte: both grow", "Far copies: the prefix grows", "Far copies: both grow",
        "Repeated text: the prefix grows", "Task: copy", "Task: needle:keys=2", "Cost",
    ]  # fmt: skip
    assert page.count('class="verdict"') == 2
    assert "All but the targets is given" in page
    for name in ("results-prefix.csv", "results-both.csv", "far_copies-both.pdf", "repeated-prefix.png", "cost.svg"):
        assert (tmp_path / name).exists()
    assert "tokens per second: both grow" in console


@pytest.mark.usefixtures("figures_are_empty_files")
def test_few_problems_and_lost_targets_are_confessed_in_their_section(rows, run, tmp_path):
    few = [
        row | {"n": 12, "low_n": True, "n_nonfinite": 3 if row["method"] == "rope" else 0}
        for row in select(rows, task="problems", corpus="copy")
    ]
    page, console = written(few, run, tmp_path)
    for text in (page, " ".join(console.split())):
        assert "LOW_N: 12 problems, fewer than 30" in text
        assert "non-finite target losses: 3" in text


@pytest.mark.usefixtures("figures_are_empty_files")
def test_a_task_that_this_version_does_not_know_is_reported_all_the_same(rows, run, tmp_path):
    unknown = [row | {"corpus": "riddle:kind=a_b"} for row in select(rows, task="problems", corpus="copy")]
    page, _ = written(unknown, run, tmp_path)
    assert "Task: riddle:kind=a_b" in page
    assert (tmp_path / "problems-riddle_kind=a_b.png").exists()
    assert r"riddle:kind=a\_b" in (tmp_path / "results.tex").read_text()


@pytest.mark.usefixtures("figures_are_empty_files")
def test_attention_is_averaged_over_layers_and_logits_are_not(rows, run, tmp_path):
    written(select(rows, task="attention"), run, tmp_path)
    text = (tmp_path / "results.md").read_text()
    first, _, last = text.partition("| largest logit |")
    assert "| sink mass | 1024 (×8) |" in first
    assert "| rope | 0.25 |" in first
    assert "| rope | 6.00 |" in last
    assert "weight on the first 4 tokens of the window" in text


@pytest.mark.usefixtures("figures_are_empty_files")
def test_text_that_training_saw_is_confessed_at_the_top(rows, run, tmp_path):
    paired = [row | {"shared_text": 0.034, "contaminated": True} for row in select(rows, task="paired")]
    page, _ = written(paired, run, tmp_path)
    assert "CONTAMINATED: 3.4 % of the runs of 13 words" in page.split("<h2>")[0]
    page, _ = written([row | {"shared_text": 0.0, "contaminated": False} for row in paired], run, tmp_path)
    assert "CONTAMINATED" not in page
    assert "0 % of the runs of 13 words" in page
