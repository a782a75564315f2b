"""Which points a space has, and which spaces are refused before anything runs."""

import json
import math
import re
from pathlib import Path

import pytest

from lmarch.config_files import load_config
from lmarch.errors import UserError
from lmarch.sweeping.plan import Plan
from lmarch.sweeping.space import (
    Choice,
    LogUniform,
    Space,
    Uniform,
    Whole,
    either,
    grid,
    listed,
    product,
    random,
    seeds,
    tpe,
    when,
    zipped,
)
from lmarch.sweeping.space_files import load_space

RATES = (1e-3, 3e-3)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "sweeps").glob("*.py")), ids=lambda file: file.stem)
def test_a_shipped_space_can_be_swept(file: Path) -> None:
    plan = Plan(load_config(f"{ROOT}/configs/causal_decoder.py:size=tiny").to_dict(), load_space(str(file)))
    plan.check()
    assert len({plan.config(point).fingerprint() for point in plan.space.points}) == plan.size


def test_a_grid_has_every_combination_and_the_last_field_changes_fastest() -> None:
    space = grid({"train.learning_rate": RATES, "model.dim": (64, 128)})
    assert [tuple(point.values()) for point in space.points] == [(1e-3, 64), (1e-3, 128), (3e-3, 64), (3e-3, 128)]
    assert space.fields == ("train.learning_rate", "model.dim")


def test_zipped_fields_go_together() -> None:
    space = zipped({"model.trained_length": (64, 128), "data.batch_rows": (32, 16)})
    assert [tuple(point.values()) for point in space.points] == [(64, 32), (128, 16)]


def test_products_and_seeds_multiply() -> None:
    space = product(grid({"train.learning_rate": RATES}), seeds(0, 1, 2))
    assert space.size == 6
    assert space.points[1] == {"train.learning_rate": 1e-3, "seed": 1}


def test_either_has_each_point_once() -> None:
    space = either(listed({"model.dim": 64}), listed({"model.dim": 64}, {"model.dim": 128}))
    assert space.points == ({"model.dim": 64}, {"model.dim": 128})


def test_a_condition_adds_fields_to_the_points_that_meet_it() -> None:
    space = when(
        grid({"model.position": ("rope", "alibi")}), {"model.position": "rope"}, grid({"model.rope_base": (1e3, 1e4)})
    )
    assert space.points == (
        {"model.position": "rope", "model.rope_base": 1e3},
        {"model.position": "rope", "model.rope_base": 1e4},
        {"model.position": "alibi"},
    )


def test_a_condition_of_several_fields_is_met_by_all_of_them() -> None:
    space = when(
        grid({"model.position": ("rope", "alibi"), "model.dim": (32, 64)}),
        {"model.position": "rope", "model.dim": 64},
        grid({"model.rope_base": (1e3,)}),
    )
    met = [point for point in space.points if "model.rope_base" in point]
    assert met == [{"model.position": "rope", "model.dim": 64, "model.rope_base": 1e3}]


def test_variants_and_lists_are_kept_as_they_are_written() -> None:
    space = listed({"model.position": {"name": "rerope", "window": 64}, "eval.lengths": (64, 128)})
    assert space.points == ({"model.position": "rerope:window=64", "eval.lengths": "(64, 128)"},)


def test_random_points_are_the_same_for_a_seed_and_stay_in_their_ranges() -> None:
    ranges = {"a": LogUniform(1e-4, 1e-2), "b": Uniform(0.0, 0.5), "c": Whole(2, 8, step=2), "d": Choice(("x", None))}
    space = random(ranges, trials=300, seed=1)
    assert space.points == random(ranges, trials=300, seed=1).points != random(ranges, trials=300, seed=2).points
    assert all(1e-4 <= point["a"] <= 1e-2 and 0 <= point["b"] <= 0.5 for point in space.points)
    assert {point["c"] for point in space.points} == {2, 4, 6, 8}
    assert {point["d"] for point in space.points} == {"x", None}
    below = sum(point["a"] < math.sqrt(1e-4 * 1e-2) for point in space.points) / space.size
    assert 0.4 < below < 0.6  # half of the draws in each half of the decades


def test_tpe_draws_the_trials_of_every_point_later() -> None:
    space = product(
        grid({"model.position": ("rope", "alibi")}), tpe({"train.learning_rate": LogUniform(1e-4, 1e-2)}, 5)
    )
    assert space.size == 10
    assert list(space.drawn) == ["train.learning_rate"]


def test_a_space_survives_json() -> None:
    space = product(grid({"model.dim": (64,)}), random({"a": LogUniform(1e-4, 1e-2), "d": Choice(("x", None))}, 3))
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: grid({"train.learning_rate": ()}), "train.learning_rate has no values"),
        (lambda: grid({"train.learning_rate": 1e-3}), "give a list of values"),
        (lambda: grid({"model.position": "rope"}), "give a list of values"),
        (lambda: grid({}), "a space without a field"),
        (lambda: zipped({"a": (1, 2), "b": (1,)}), "as many values as each other"),
        (lambda: listed(), "a list of no points"),
        (lambda: LogUniform(0.0, 1.0), "low must be above 0"),
        (lambda: Uniform(1.0, 1.0), "low must be below high"),
        (lambda: Uniform(0.0, math.nan), "low must be below high"),
        (lambda: Whole(1, 4, step=2), "must divide"),
        (lambda: Choice(()), "a choice of no values"),
        (lambda: random({"a": Uniform(0, 1)}, trials=0), "trials=0 must be 1 or more"),
        (lambda: random({"a": (1, 2)}, trials=1), "is no range"),
        (lambda: product(grid({"a": (1,)}), grid({"a": (2,)})), "both set a"),
        (lambda: product(tpe({"a": Uniform(0, 1)}, 2), tpe({"b": Uniform(0, 1)}, 2)), "both draw by tpe"),
        (lambda: product(tpe({"a": Uniform(0, 1)}, 2), seeds(0, 1)), "one seed a point"),
        (lambda: either(tpe({"a": Uniform(0, 1)}, 2)), "known beforehand"),
        (lambda: when(grid({"a": (1, 2)}), {"a": 3}, grid({"b": (1,)})), "never happens"),
    ],
)
def test_a_space_that_cannot_be_is_refused_with_the_reason(make, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        make()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no space file"),
        ("x = 1\n", "defines no get_space"),
        ("def get_space(arg):\n    return 3\n", "returned a int"),
        ("def get_space(arg)\n", "line 1 is not Python"),
        ("from lmarch.sweeping.space import *\ndef get_space(arg):\n    return grid({'a': ()})\n", "a has no values"),
    ],
)
def test_a_space_file_that_cannot_be_read_is_named(tmp_path, text: str | None, words: str) -> None:
    file = tmp_path / "space.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        load_space(str(file))
    assert "space.py" in str(refused.value)
