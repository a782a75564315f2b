"""The first picture: text and problems side by side."""

import numpy as np
import pytest
from synthetic_results import CURVES, LENGTHS, bare, row

from lmarch.reporting.headline import headline_figure
from lmarch.reporting.results import compare


@pytest.fixture
def problems():
    """Of `needle`: every method solves less the longer the window, the crop control least."""
    return [
        bare(*method, length, 0.9 - step / 10 - number / 100, task="problems", corpus="needle", metric="exact_match")
        | {"crop": 0.8 / 2**step, "crop_low": 0.0, "crop_high": 1.0}
        for number, method in enumerate(CURVES)
        for step, length in enumerate(LENGTHS)
    ]


def lines(axes):
    return {line.get_gid(): line for line in axes.lines}


def test_each_panel_has_every_method_at_its_numbers_in_one_colour(results, problems):
    left, right = headline_figure(compare(results), compare(problems)).axes
    for method in {result["method"] for result in results}:
        text = [(r["length"], r["value"]) for r in results if r["method"] == method]
        solved = [(r["length"], 100 * r["value"]) for r in problems if r["method"] == method]
        np.testing.assert_array_equal(lines(left)[method].get_xydata(), text)
        np.testing.assert_allclose(lines(right)[method].get_xydata(), solved)
        assert lines(left)[method].get_color() == lines(right)[method].get_color()


def test_each_panel_has_its_own_crop_control(results, problems):
    left, right = headline_figure(compare(results), compare(problems)).axes
    assert set(lines(left)["crop control"].get_ydata()) == {1.640}
    np.testing.assert_allclose(lines(right)["crop control"].get_ydata(), [80, 40, 20, 10])


def test_the_legend_names_every_line_once_in_the_order_of_the_methods(results, problems):
    figure = headline_figure(compare(results), compare(problems))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["rope", "linear ×8", "ntk ×8", "rerope w64", "crop control"]


def test_eight_methods_differ_in_colour():
    rows = [row(f"m{i}", f"m{i}", None, n, 1.7, trained_with="m0") for i in range(8) for n in LENGTHS]
    solved = [bare(f"m{i}", f"m{i}", None, n, 0.5, trained_with="m0", corpus="copy") for i in range(8) for n in LENGTHS]
    left, right = headline_figure(compare(rows), compare(solved)).axes
    for axes in (left, right):
        assert len({line.get_color() for gid, line in lines(axes).items() if gid[0] == "m"}) == 8


def test_the_panels_say_what_they_show(results, problems):
    figure = headline_figure(compare(results), compare(problems))
    left, right = figure.axes
    assert left.get_title("left") == "Text: bits per byte (lower is better)"
    assert right.get_title("left") == "Problems of needle (higher is better)"
    assert "n = 40 documents" in figure.get_supxlabel()
    assert "problems a length" in figure.get_supxlabel()
