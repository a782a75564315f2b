"""Search spaces: which runs a sweep makes of one config.

A file in configs/sweeps defines `get_space(arg)`, which returns a Space put together of these:

  grid({"train.learning_rate": (1e-3, 3e-3), "model.dim": (64, 128)})         every combination
  zipped({"model.trained_length": (64, 128), "data.batch_rows": (32, 16)})    the first of each, the second of each, ...
  listed({"model.position": "rope"}, {"model.position": "alibi"})             as they stand
  random({"train.learning_rate": LogUniform(1e-4, 1e-2)}, trials=20)          drawn beforehand, by a seed
  tpe({"train.learning_rate": LogUniform(1e-4, 1e-2)}, trials=20)             each drawn in view of what went before
  seeds(0, 1, 2)                      of the model and of the data's order
  product(a, b)                       every point of a with every one of b
  either(a, b)                        the points of a, and those of b
  when(a, {"model.position": "rope"}, b)     the points of a; those with this position with every one of b

Names are fields of the config, as on the command line.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmarch.config import seeds_of
from lmarch.errors import UserError
from lmarch.registry import format_variant
from lmarch.sweeping.ranges import RANGES, Choice, LogUniform, Range, Uniform, Whole, to_json

__all__ = [
    "Choice",
    "LogUniform",
    "Space",
    "Uniform",
    "Whole",
    "either",
    "grid",
    "listed",
    "product",
    "random",
    "seeds",
    "tpe",
    "when",
    "zipped",
]

Point = Mapping[str, Any]  # field -> value, as it is written on the command line
SEED = "seed"  # the number of a run, which stands for SEED_FIELDS
SEED_FIELDS = tuple(seeds_of(0))


@dataclasses.dataclass(frozen=True)
class Space:
    """Points, each of which is a run; or, with `trials`, each of which is that many runs with fields drawn on top."""

    points: tuple[Point, ...]
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)  # of the fields that are or will be drawn
    trials: int = 0  # drawn in view of earlier ones, of each point; 0: nothing is left to draw

    @property
    def size(self) -> int:
        return len(self.points) * max(1, self.trials)

    @property
    def fields(self) -> tuple[str, ...]:
        """All that differ or are drawn, in order of appearance."""
        named = dict.fromkeys(field for point in self.points for field in point)
        return tuple(named | dict.fromkeys(self.ranges))

    @property
    def drawn(self) -> Mapping[str, Range]:
        """The fields that are drawn when a trial begins."""
        return {field: self.ranges[field] for field in self.ranges if self.trials and field not in self.points[0]}

    def values(self, field: str) -> tuple[Any, ...]:
        """Those of a field in the points, each once."""
        return tuple(dict.fromkeys(point[field] for point in self.points if field in point))

    def to_json(self) -> dict[str, Any]:
        ranges = {field: to_json(one) for field, one in self.ranges.items()}
        return {"points": [dict(point) for point in self.points], "ranges": ranges, "trials": self.trials}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Space":
        ranges = {field: RANGES.build(one) for field, one in tree["ranges"].items()}
        return cls(tuple(tree["points"]), ranges, tree["trials"])


def grid(values: Mapping[str, Sequence[Any]]) -> Space:
    """Every combination; the last field changes fastest."""
    return _of_columns(values, itertools.product)


def zipped(values: Mapping[str, Sequence[Any]]) -> Space:
    """The first value of every field, the second of every field, and so on."""
    lengths = {field: len(_checked(field, given)) for field, given in values.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"zipped fields must have as many values as each other, not {lengths}")
    return _of_columns(values, zip)


def listed(*points: Point) -> Space:
    if not points:
        raise UserError("a list of no points: give some")
    return Space(tuple({field: _plain(value) for field, value in point.items()} for point in points))


def random(ranges: Mapping[str, Range], trials: int, seed: int = 0) -> Space:
    """`trials` points, drawn now: the same ones for the same seed."""
    _require_trials(trials, ranges)
    rng = np.random.default_rng(seed)
    points = tuple({field: _plain(one.draw(rng)) for field, one in ranges.items()} for _ in range(trials))
    return Space(points, dict(ranges))


def tpe(ranges: Mapping[str, Range], trials: int) -> Space:
    """`trials` points, each drawn where earlier ones did well (tree-structured Parzen estimator, Bergstra et al. 2011)."""
    _require_trials(trials, ranges)
    return Space(({},), dict(ranges), trials)


def seeds(*numbers: int) -> Space:
    """Of the weights and of the order of the data; intervals are taken over them."""
    return grid({SEED: numbers})


def product(*spaces: Space) -> Space:
    """Every point of the first with every point of the second, and so on."""
    made = spaces[0]
    for other in spaces[1:]:
        twice = sorted(set(made.fields) & set(other.fields))
        if twice:
            raise UserError(f"two factors of a product both set {twice[0]}: leave it out of one of them")
        if made.trials and other.trials:
            raise UserError("two factors of a product both draw by tpe: draw all fields in one tpe")
        drawing = made if made.trials else other
        if drawing.trials and SEED in (*made.fields, *other.fields):
            raise UserError("tpe chooses by one seed a point: repeat its best points under more seeds with `listed`")
        points = tuple({**a, **b} for a in made.points for b in other.points)
        made = Space(points, {**made.ranges, **other.ranges}, drawing.trials)
    return made


def either(*spaces: Space) -> Space:
    """The points of all of them, each once."""
    if any(space.trials for space in spaces):
        raise UserError("either takes points that are known beforehand: draw at random instead of by tpe")
    points = {tuple(sorted(point.items(), key=str)): point for space in spaces for point in space.points}
    return Space(tuple(points.values()), {f: one for space in spaces for f, one in space.ranges.items()})


def when(space: Space, condition: Point, then: Space) -> Space:
    """The points of `space`; each of those that meet the condition becomes one with every point of `then`."""
    wanted = {field: _plain(value) for field, value in condition.items()}
    for field, value in wanted.items():
        if value not in space.values(field):
            raise UserError(f"when {field}={value!r} never happens: its values are {list(space.values(field))}")

    def met(point: Point) -> bool:
        return all(point.get(field) == value for field, value in wanted.items())

    made = [product(Space((point,)), then) if met(point) else Space((point,)) for point in space.points]
    whole = either(*made)
    return dataclasses.replace(whole, ranges={**space.ranges, **whole.ranges})


def _of_columns(values: Mapping[str, Sequence[Any]], combine: Any) -> Space:
    if not values:
        raise UserError("a space without a field: give some")
    columns = [[_plain(value) for value in _checked(field, given)] for field, given in values.items()]
    return Space(tuple(dict(zip(values, combined, strict=True)) for combined in combine(*columns)))


def _checked(field: str, values: Sequence[Any]) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"{field}={values!r}: give a list of values")
    if not values:
        raise UserError(f"{field} has no values: give some, or leave it out")
    return values


def _require_trials(trials: int, ranges: Mapping[str, Range]) -> None:
    if trials < 1:
        raise UserError(f"trials={trials} must be 1 or more")
    for field, one in ranges.items():
        if not isinstance(one, Range):
            raise UserError(f"{field}={one!r} is no range: write Uniform(low, high), LogUniform, Whole or Choice")


def _plain(value: Any) -> Any:
    """A value that JSON, and a study, can hold: variants and lists as they are written on the command line."""
    if isinstance(value, Mapping):
        return format_variant(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
