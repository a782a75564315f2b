import re
from html.parser import HTMLParser

import pytest
from synthetic_results import LENGTHS, row

from lmarch.reporting.html import write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects them with the visible text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def report(tmp_path):
    def write(results, run):
        write_report(results, run, tmp_path / "report.html")
        source = (tmp_path / "report.html").read_text(encoding="utf-8")
        return source, Page(source)

    return write


def test_report_is_one_well_formed_page_that_reaches_for_nothing(report, results, run):
    source, page = report(results, run)
    assert page.open == []
    assert source.startswith("<!doctype html>")
    assert page.tags.count("svg") == 3
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset")]
    assert all(value.startswith("#") for value in references)  # markers inside the drawing
    urls = [value for value in re.findall(r"url\((.*?)\)", source) if not value.startswith("#")]
    namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", source)
    assert urls == []
    assert "http" not in namespaces
    assert "@import" not in source


def test_report_suits_phones_darkness_and_paper(report, results, run):
    source, page = report(results, run)
    assert ("content", "width=device-width, initial-scale=1") in page.attributes
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    assert "#1a1a1b" not in source.split("</style>")[1]  # the drawing follows the text colour
    assert len(re.findall(r'<div class="scroll"><(?:table|svg)', source)) == page.tags.count("table") + 3


def test_report_tells_the_result_and_how_it_was_obtained(report, results, run):
    _, page = report(results, run)
    assert "Vanilla rope at 8× its trained length costs +1.96 bits per byte" in page.text
    for part in ("1024 (×8)", "3.60 ±0.04", "crop control", "context gain", "the last 64 of each of 80 windows"):
        assert part in page.text
    for fact in ("3f9a1c07b2d4", "jax 0.10.2", "cpu, 2 cores", "a1b2c3d4e5f6", "820,352", "6,144,000", "9 min"):
        assert fact in page.text
    for fact in ("train.learning_rate0.003", "position.namerope", "dense, tiled", "9c1e5b7d20aa"):
        assert fact in page.text


def test_footnotes_are_shown(report, broken, run):
    _, page = report(broken, run)
    assert "LOW_N: 12 documents" in page.text
    assert "window 64 is not below the trained length" in page.text
    assert "non-finite target losses: 3" in page.text
    assert "inf [2.40, inf]b" in page.text
    assert "strong" not in page.tags


def test_a_bare_record_is_enough(report, results):
    _, page = report(results, {"history": [{"step": 50, "loss": None}], "device": None})
    assert "demo-3f9a1c" in page.text  # the run id stands in for the name
    assert page.tags.count("svg") == 2


def test_hostile_strings_stay_text(report, results, run):
    attack = "<script>alert(1)</script>\"'&"
    run |= {"name": attack, "config": {attack: {"x": attack}}, "versions": {attack: attack}, "device": attack}
    rows = [
        result | {"label": attack + result["method"], "out_of_design": attack, "split": attack} for result in results
    ]
    _, page = report(rows, run)
    assert "script" not in page.tags
    assert page.open == []
    assert page.text.count(attack) > 10


def test_a_single_document_reports_values_without_claims(tmp_path):
    unbounded = {
        f"{name}_{end}": float(f"{sign}inf")
        for name in ("ci", "gain", "vs_trained", "crop")
        for end, sign in (("low", "-"), ("high", "+"))
    }
    rows = [row("rope", "rope", None, length, 1.6 + length / 1000, n=1, low_n=True, **unbounded) for length in LENGTHS]
    write_report(rows, {"name": "one"}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "cannot be told apart" in page
    assert "excludes 0." not in page.split("How to read it")[0]


def test_the_report_names_the_text_that_was_scored(tmp_path):
    """Which need not be the text of the run's config."""
    rows = [row("rope", "rope", None, length, 1.6 + length / 1000, corpus="python-stdlib") for length in LENGTHS]
    write_report(rows, {"name": "one", "config": {"data": {"corpus": "sotu"}}}, tmp_path / "report.html")
    assert "python-stdlib" in (tmp_path / "report.html").read_text()
