"""Models compared on the same targets: what is written beside the results of an experiment."""

import io

import pytest
from rich.console import Console

from lmarch.reporting.contrast import write_contrast

MODEL = {
    "model": "small_1", "parameters": 1000, "non_embedding_parameters": 800, "training_flops": 1e9, "read_tokens": 1e6,
    "loss_tokens": 1e6, "cross_positions": None, "corpus": "sotu", "learning_rate": 3e-3,
}  # fmt: skip


def line(name, length, value, difference, half=0.02):
    return {
        "line": name, "lines": "methods", "group": "small_1", "axis": None, "metric": "bpb", "length": length,
        "trained_length": 128, "value": value, "ci_low": value - 0.05, "ci_high": value + 0.05, "difference": difference,
        "difference_low": difference - half, "difference_high": difference + half, "reference": "rope", "targets": 32,
        "n_windows": 72, "n": 40, "corpus": "sotu", "split": "test", "seeds": 1, "low_n": False, "out_of_design": None,
    }  # fmt: skip


RESULTS = [
    line("rope", 128, 1.8, 0.0, 0.0),
    line("rope", 256, 2.4, 0.0, 0.0),
    line("a_b", 128, 1.81, 0.01),
    line("a_b", 256, 1.9, -0.5),
]
VERDICT = {
    "metric": "bpb", "multiple": 2.0, "group": "small_1", "axis": None, "ahead": "a_b", "behind": "rope", "status": "PASS",
    "reason": "", "low_n": False, "lead": 0.5, "lead_low": 0.48, "lead_high": 0.52, "value_ahead": 1.9, "value_behind": 2.4,
    "corpus": "sotu", "equal_within": None, "p": 0.001, "documents_low": 0.49, "documents_high": 0.51, "seed_leads": [0.5],
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, console = tmp_path_factory.mktemp("contrast"), Console(width=140, file=io.StringIO())
    record = {"name": "one & two", "question": "Which?", "source": "Someone 2020", "metric": "bpb"}
    write_contrast(record, RESULTS, [VERDICT], [MODEL], folder, console)
    return folder, console.file.getvalue()


def test_the_figure_is_stored_as_picture_and_vectors(written):
    folder, _ = written
    assert {file.name for file in folder.iterdir()} == {
        "contrast.png", "contrast.svg", "contrast.pdf", "report.html", "results.tex"
    }  # fmt: skip


def test_page_console_and_latex_hold_the_same_numbers(written):
    folder, console = written
    page, latex = ((folder / name).read_text() for name in ("report.html", "results.tex"))
    for text in (console, page, latex.replace(r"$\pm$", "±").replace("$-$", "−").replace(r"\_", "_")):
        for part in (
            "1.90 ±0.05",
            "−0.50 ±0.02",
            "+0.50 ±0.02",
            "PASS",
            "a_b ahead of rope",
            "bits per byte minus rope",
        ):
            assert part in text
        assert "One training seed" in text


def test_only_differences_that_exclude_zero_are_bold(written):
    folder, _ = written
    page, latex = ((folder / name).read_text() for name in ("report.html", "results.tex"))
    assert "<strong>−0.50 ±0.02</strong>" in page
    assert page.count("<strong>") == latex.count(r"\textbf") == 2  # with the verdict that passed
    assert r"& +0.01 $\pm$0.02 &" in latex
