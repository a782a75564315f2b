import pytest
from synthetic_results import DEPTHS, LENGTHS, METHODS, TRAINED, everything

from lmarch.reporting.heat_map import heat_map_figure
from lmarch.reporting.results import compare, select


@pytest.fixture(scope="module")
def rows():
    return everything()


def draw(rows, chosen=None):
    return heat_map_figure(chosen or select(rows, task="by_depth"), compare(rows, task="paired"))


def cells(axes):
    """(length, depth) -> what is printed there, and whether it is hatched."""
    printed = {
        (LENGTHS[int(x)], DEPTHS[int(y)]): text.get_text() for text in axes.texts for x, y in [text.get_position()]
    }
    hatched = {}
    for patch in axes.patches:
        x, y = patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2
        hatched[LENGTHS[round(x)], DEPTHS[round(y)]] = bool(patch.get_hatch())
    return printed, hatched


def test_every_cell_prints_its_value_in_percent(rows):
    for axes, (method, *_) in zip(draw(rows).axes, METHODS, strict=False):
        own = select(rows, task="by_depth", method=method)
        printed, _ = cells(axes)
        assert printed == {(row["length"], row["depth"]): f"{100 * row['value']:.0f}" for row in own}


def test_cells_within_the_trained_length_are_hatched(rows):
    for axes in draw(rows).axes[: len(METHODS)]:
        _, hatched = cells(axes)
        assert {cell for cell, near in hatched.items() if near} == {(128, 0.25), (128, 0.75), (256, 0.75), (512, 0.75)}
    assert TRAINED == 0.25 * 512  # just within


def test_a_panel_names_its_method_and_how_many_problems_a_cell_has(rows):
    titles = [axes.get_title("left") for axes in draw(rows).axes[: len(METHODS)]]
    assert titles == [f"{label} (n = 20 a cell)" for _, label, _ in METHODS]


def test_the_beginning_of_the_window_is_on_top(rows):
    axes = draw(rows).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    heights = [axes.transData.transform((0, place))[1] for place in axes.get_yticks()]
    assert dict(zip(labels, heights, strict=True))["25 %"] > dict(zip(labels, heights, strict=True))["75 %"]


def test_what_was_not_measured_stays_empty(rows):
    some = [row for row in select(rows, task="by_depth") if (row["length"], row["depth"]) != (512, 0.25)]
    printed, _ = cells(draw(rows, some).axes[0])
    assert (512, 0.25) not in printed
    assert len(printed) == len(LENGTHS) * len(DEPTHS) - 1


def test_print_can_be_read_on_every_colour(rows):
    for axes in draw(rows).axes[: len(METHODS)]:
        for text in axes.texts:
            red, green, blue, _ = text.get_bbox_patch().get_facecolor()
            light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
            assert text.get_color() == ("black" if light > 0.5 else "white")
