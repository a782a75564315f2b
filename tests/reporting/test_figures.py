import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from synthetic_results import LENGTHS, row

from lmarch.reporting.figures import bits_per_byte_figure, loss_curve_figure, save_figure
from lmarch.reporting.results import compare


def lines(axes):
    return {line.get_gid(): line for line in axes.lines}


def clipped(axes):
    return [text.get_text() for text in axes.texts if text.get_gid() == "clipped"]


def tick_labels(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_panels_show_every_method_at_its_numbers(results):
    left, right = bits_per_byte_figure(compare(results)).axes
    for method in {result["method"] for result in results}:
        own = [result for result in results if result["method"] == method]
        np.testing.assert_array_equal(lines(left)[method].get_xydata(), [(r["length"], r["value"]) for r in own])
        np.testing.assert_array_equal(lines(right)[method].get_xydata(), [(r["length"], r["gain"]) for r in own])
        assert lines(left)[method].get_color() == lines(right)[method].get_color()
    assert len(left.collections) == len(right.collections) == 4  # a ribbon each


def test_trained_length_crop_control_and_zero_are_drawn(results):
    left, right = bits_per_byte_figure(compare(results)).axes
    for axes in (left, right):
        assert set(lines(axes)["trained length"].get_xdata()) == {128}
        assert lines(axes)["trained length"].get_linestyle() == "--"
        assert "trained length" in [text.get_text() for text in axes.texts]
    assert lines(left)["crop control"].get_linestyle() == ":"
    assert set(lines(left)["crop control"].get_ydata()) == {1.640}
    assert set(lines(right)["zero"].get_ydata()) == {0.0}


def test_length_axis_is_octaves_labelled_with_the_lengths(results):
    for axes in bits_per_byte_figure(compare(results)).axes:
        assert axes.get_xscale() == "log"
        assert tick_labels(axes) == ["128\n×1", "256\n×2", "512\n×4", "1024\n×8"]


def test_lengths_too_close_to_label_keep_their_ticks():
    lengths = (128, 136, 160, 192, 256, 1024)
    left, _ = bits_per_byte_figure(compare([row("rope", "rope", None, length, 1.64) for length in lengths])).axes
    assert tick_labels(left) == ["128\n×1", "192\n×1.5", "256\n×2", "1024\n×8"]
    assert set(left.get_xticks()) | set(left.get_xticks(minor=True)) == set(lengths)


def test_values_beyond_three_times_the_trained_loss_are_printed(results):
    results[3] |= {"value": 7.4, "ci_low": 7.3, "ci_high": 7.5}
    left, right = bits_per_byte_figure(compare(results)).axes
    assert clipped(left) == ["▲ 7.40"]
    bottom, top = left.spines["left"].get_bounds()
    assert top <= 3 * 1.640
    assert left.get_ylim()[1] > top  # room for the print
    assert {"▼ −0.50", "▼ −1.96", "▼ −0.84"} <= set(clipped(right))
    assert all(bottom <= tick <= top for tick in left.get_yticks())


def test_printed_values_do_not_cover_each_other():
    lengths = (128, 160, 192, 256, 1024)
    rows = [row(f"m{i}", f"m{i}", None, length, 6.0 + i) for i in range(5) for length in lengths]
    left, _ = bits_per_byte_figure(compare(rows)).axes
    printed = [text for text in left.texts if text.get_gid() == "clipped"]
    assert len({(text.xy[0], text.xyann) for text in printed}) == len(rows)
    at_256 = sorted(text.xyann[1] for text in printed if text.xy[0] in (192, 256))  # too close for one row
    assert len(set(at_256)) == 10


def test_nothing_is_clipped_without_need(results):
    left, right = bits_per_byte_figure(compare([r for r in results if r["method"].startswith("rerope")])).axes
    assert clipped(left) == clipped(right) == []
    assert left.get_ylim()[1] < 1.75


def test_baselines_stay_in_sight():
    left, right = bits_per_byte_figure(compare([row("linear", "linear", 8.0, w, 1.9, crop=1.64) for w in LENGTHS])).axes
    assert left.get_ylim()[0] < 1.64
    assert right.get_ylim()[1] > 0


def test_infinite_and_missing_points(broken):
    left, right = bits_per_byte_figure(compare(broken)).axes
    assert clipped(left) == ["▲ inf"]
    assert "▼ −inf" in clipped(right)
    np.testing.assert_array_equal(lines(left)["linear:factor=8"].get_xdata(), [128, 256, 1024])


def test_many_methods_stay_distinct():
    rows = [row(f"m{i}", f"m{i}", None, length, 1.7 + i / 100) for i in range(14) for length in LENGTHS]
    left, _ = bits_per_byte_figure(compare(rows)).axes
    looks = {
        (line.get_color(), line.get_linestyle(), line.get_marker())
        for gid, line in lines(left).items()
        if gid[0] == "m"
    }
    assert len(looks) == 14


def test_note_gives_targets_and_documents(results):
    assert "S = 64 targets a window, n = 40 documents" in bits_per_byte_figure(compare(results)).get_supxlabel()


def test_saved_vectors_have_real_text_and_are_the_same_every_time(results, tmp_path):
    hostile = r"a<b> & $\frac$"  # neither markup nor mathematics
    results = [result | {"label": hostile} if result["method"] == "rope" else result for result in results]
    png, svg, pdf = save_figure(bits_per_byte_figure(compare(results)), tmp_path / "run.v2")
    assert (png.name, svg.name, pdf.name) == ("run.v2.png", "run.v2.svg", "run.v2.pdf")
    assert png.read_bytes().startswith(b"\x89PNG")
    texts = {element.text for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"trained length", "bits per byte", "1024", "linear ×8", hostile} <= texts
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Subtype /Image" not in pdf.read_bytes()  # vectors, and text in a font
    assert b"/FontFile2" in pdf.read_bytes()
    first = svg.read_bytes(), pdf.read_bytes()
    save_figure(bits_per_byte_figure(compare(results)), tmp_path / "run.v2")
    assert (svg.read_bytes(), pdf.read_bytes()) == first


def test_loss_curves_have_a_panel_a_unit(run):
    training, validation = loss_curve_figure(run["history"]).axes
    assert len(training.lines[0].get_xdata()) == 30
    assert list(validation.lines[0].get_xdata()) == [250, 500, 750, 1000, 1250, 1500]
    assert training.get_ylabel() == "nats per token"
    (only,) = loss_curve_figure([{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}]).axes
    assert only.get_title("left") == "Training loss"


def test_global_style_is_left_alone(results):
    before = dict(matplotlib.rcParams)
    bits_per_byte_figure(compare(results))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("length", [128, 1024])
def test_a_single_length_can_be_drawn(length):
    left, _ = bits_per_byte_figure(compare([row("rope", "rope", None, length, 1.64)])).axes
    assert f"{length}\n×{length // 128}" in tick_labels(left)
