import math

import numpy as np
import pytest
from synthetic_results import CURVES, LENGTHS, METHODS, TRAINED, everything

from lmarch.evaluation.statistics import wilson
from lmarch.reporting.curves import cost_figure, distance_figure, loss_by_position_figure, shares_figure
from lmarch.reporting.figures import bits_per_byte_figure
from lmarch.reporting.heat_map import by_distance
from lmarch.reporting.results import compare, select
from lmarch.reporting.style import looks


def lines(axes):
    return {line.get_gid(): line for line in axes.lines}


def middle(row):
    return (row["from_position"] + row["to_position"]) / 2


def shaded(axes):
    """Where the region within the trained length begins and ends."""
    (region,) = [patch for patch in axes.patches if patch.get_gid() == "trained region"]
    return region.get_x(), region.get_x() + region.get_width()


@pytest.fixture(scope="module")
def rows():
    return everything()


def by_position(rows):
    return loss_by_position_figure(compare(rows, where=middle, task="by_position")).axes[0]


def test_shares_are_drawn_in_percent_of_the_stored_values(rows):
    exact = compare(rows, task="problems", corpus="copy", metric="exact_match")
    accuracy = compare(rows, task="problems", corpus="copy", metric="accuracy")
    left, right = shares_figure({"Exact match": exact, "Token accuracy": accuracy}, "problems").axes
    for axes, metric in ((left, "exact_match"), (right, "accuracy")):
        for method, *_ in METHODS:
            own = select(rows, task="problems", corpus="copy", metric=metric, method=method)
            drawn = lines(axes)[method].get_xydata()
            np.testing.assert_allclose(drawn, [(row["length"], 100 * row["value"]) for row in own])
        assert axes.get_ylim()[0] <= 0 < 100 <= axes.get_ylim()[1]
        assert [label.get_text() for label in axes.get_yticklabels()] == [f"{p} %" for p in range(0, 101, 20)]
    assert left.get_title("left") == "Exact match"


def test_what_lies_within_the_trained_length_is_shaded(rows):
    accuracy = compare(rows, task="repeated", metric="accuracy")
    for axes in (shares_figure({"": accuracy}, "documents").axes[0], by_position(rows)):
        start, end = shaded(axes)
        assert end == TRAINED
        assert start == axes.get_xlim()[0] < TRAINED


def test_loss_is_drawn_at_the_middle_of_each_bucket_with_its_interval(rows):
    axes = by_position(rows)
    for number, (method, *_) in enumerate(METHODS):
        own = select(rows, task="by_position", method=method)
        np.testing.assert_allclose(lines(axes)[method].get_xydata(), [(middle(row), row["value"]) for row in own])
        ribbon = axes.collections[number].get_paths()[0].vertices[:, 1]
        assert ribbon.min() == pytest.approx(min(row["ci_low"] for row in own))
        assert ribbon.max() == pytest.approx(max(row["ci_high"] for row in own))
    assert set(lines(axes)["trained length"].get_xdata()) == {TRAINED}
    assert lines(axes)["trained length"].get_linestyle() == "--"


def test_a_method_that_explodes_with_position_is_cut_off_and_its_last_value_printed(rows):
    changed = [
        row | {"value": 50.0, "ci_low": 49.0, "ci_high": 51.0}
        if (row["task"], row["method"]) == ("by_position", "linear:factor=8") and row["from_position"] >= 512
        else row
        for row in rows
    ]
    axes = by_position(changed)
    assert axes.get_ylim()[1] < 15
    assert [text.get_text() for text in axes.texts if text.get_gid() == "clipped"] == ["▲ 50.00"]


def test_speed_is_drawn_against_length_on_logarithmic_axes(rows):
    (axes,) = cost_figure({"": compare(rows, task="paired")}).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    for method, *_ in METHODS:
        own = select(rows, task="paired", method=method)
        drawn = lines(axes)[method].get_xydata()
        np.testing.assert_array_equal(drawn, [(row["length"], row["tokens_per_second"]) for row in own])
    ticks = [tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]
    assert len(ticks) >= 3


def test_speeds_that_are_alike_are_ticked_too(rows):
    alike = [row | {"tokens_per_second": 16_000 + row["length"]} for row in rows]
    (axes,) = cost_figure({"": compare(alike, task="paired")}).axes
    assert len([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]) >= 3


def test_problems_are_put_together_by_distance(rows):
    """At 128: 96 and 32 tokens, 256: 192 and 64, 512: 384 and 128, 1024: 768 and 256."""
    pooled = by_distance(select(rows, task="by_depth"))
    own = {row["distance"]: row["n"] for row in pooled if row["method"] == "ntk:factor=8"}
    assert own == {32: 20, 64: 20, 112: 40, 224: 40, 384: 20, 768: 20}
    near = [row | {"distance": 100.0} for row in select(rows, task="by_depth", length=128)] + [
        row | {"distance": 120.0, "n": 60} for row in select(rows, task="by_depth", length=256)
    ]
    (one,) = [row for row in by_distance(near) if row["method"] == "ntk:factor=8"]
    assert one["n"] == 2 * 20 + 2 * 60
    assert one["value"] == pytest.approx((1.0 * 40 + 0.75 * 120) / 160)
    assert one["distance"] == pytest.approx((100 * 40 + 120 * 120) / 160)
    assert (one["ci_low"], one["ci_high"]) == pytest.approx(
        (wilson(one["value"], 160).low, wilson(one["value"], 160).high)
    )


def test_the_trained_length_ends_a_group_of_distances(rows):
    first = select(rows, task="by_depth", method="ntk:factor=8")[0]
    pooled = by_distance([first | {"distance": 128.0}, first | {"distance": 128.1}])
    assert [row["distance"] for row in pooled] == [128.0, 128.1]


def test_accuracy_by_distance_is_drawn_with_the_trained_length(rows):
    pooled = by_distance(select(rows, task="by_depth"))
    comparison = compare([*rows, *pooled], where=lambda row: row["distance"], task="by_distance")
    (axes,) = distance_figure(comparison).axes
    drawn = lines(axes)["ntk:factor=8"].get_xydata()
    expected = [(32, 100), (64, 75), (112, 75), (224, 50), (384, 50), (768, 25)]
    np.testing.assert_allclose(drawn, expected)
    assert set(lines(axes)["trained length"].get_xdata()) == {TRAINED}
    assert shaded(axes)[1] == TRAINED


def test_a_method_has_one_look_in_all_figures_even_where_others_are_missing(rows):
    fewer = [row for row in rows if not (row["task"] == "repeated" and row["method"] == "linear:factor=8")]
    everywhere = looks(compare(rows, task="paired"))
    assert looks(compare(fewer, task="repeated", metric="accuracy")) == everywhere
    left = bits_per_byte_figure(compare(rows, task="far_copies"), "far copies").axes[0]
    (other,) = shares_figure({"": compare(fewer, task="repeated", metric="accuracy")}, "documents").axes
    for method in ("rope", "ntk:factor=8", "rerope:window=64"):
        assert lines(left)[method].get_color() == lines(other)[method].get_color()
    assert "linear:factor=8" not in lines(other)


def test_far_copies_are_drawn_from_their_own_rows(rows):
    left, right = bits_per_byte_figure(compare(rows, task="far_copies"), "far copies").axes
    halves = [value / 2 for value in CURVES[METHODS[1]]]
    np.testing.assert_array_equal(lines(left)["linear:factor=8"].get_xydata(), list(zip(LENGTHS, halves, strict=True)))
    np.testing.assert_allclose(lines(right)["linear:factor=8"].get_ydata(), [0.82 - value for value in halves])
    assert left.get_title("left") == "Bits per byte of far copies (lower is better)"


def test_infinite_losses_by_position_are_left_out_of_the_scale(rows):
    changed = [
        row | {"value": math.inf, "ci_high": math.inf} if row.get("from_position") == 960 else row for row in rows
    ]
    axes = by_position(changed)
    assert math.isfinite(axes.get_ylim()[1])
    assert {text.get_text() for text in axes.texts if text.get_gid() == "clipped"} == {"▲ inf"}
