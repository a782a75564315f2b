"""The rows of `results.jsonl` that measure one thing, as a grid of method × window length."""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmarch.errors import UserError
from lmarch.evaluation.statistics import Interval
from lmarch.registry import for_people

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    interval: Interval

    @property
    def percent(self) -> "Estimate":
        """A share, as percent."""
        return Estimate(100 * self.value, Interval(100 * self.interval.low, 100 * self.interval.high))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every method (in file order) at every window length (ascending); a pair that was not evaluated has no row.

    `labels` has every method of the evaluation, so that a method looks the same wherever it appears.
    """

    labels: dict[str, str]
    trained_with: str
    lengths: tuple[float, ...]  # or positions in the window
    trained_length: int
    rows: dict[tuple[str, float], Row]

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(method for method, _ in self.rows))

    @property
    def vanilla(self) -> str | None:
        """The method the model was trained with, if it is among the results."""
        return self.trained_with if self.trained_with in self.methods else None

    def multiple(self, length: float) -> str:
        """A length in units of the trained length: '1.5'."""
        return f"{length / self.trained_length:.3g}"

    def value(self, method: str, length: float) -> Estimate | None:
        return estimate(self.rows.get((method, length)), "value", "ci")

    def share(self, method: str, length: float) -> Estimate | None:
        """The value in percent."""
        value = self.value(method, length)
        return value and value.percent

    def crop(self, length: float) -> Estimate | None:
        """The same targets, or problems, with the unmodified model and the context cut to the trained length."""
        row = next((row for (_, row_length), row in self.rows.items() if row_length == length), None)
        return estimate(row, "crop", "crop")

    def crop_share(self, length: float) -> Estimate | None:
        """The crop control in percent."""
        crop = self.crop(length)
        return crop and crop.percent

    def gain(self, method: str, length: float) -> Estimate | None:
        """Context gain: by how much the value is better than the crop control; positive where the longer context helps."""
        return estimate(self.rows.get((method, length)), "gain", "gain")

    def cost(self, method: str, length: float) -> Estimate | None:
        """Bits per byte at this length minus those of the same method at the trained length."""
        return estimate(self.rows.get((method, length)), "vs_trained", "vs_trained")

    def speed(self, method: str, length: float) -> Estimate | None:
        """Tokens per second, of which there is no interval; None of what another process measured than the latest.

        Two processes may run on two machines, or on a busy and an idle one: their timings do not compare.
        """
        row = self.rows.get((method, length))
        latest = max(str(one.get("measured_in")) for one in self.rows.values())
        if row is None or str(row.get("measured_in")) != latest or not row["tokens_per_second"]:
            return None
        return Estimate(row["tokens_per_second"], Interval(row["tokens_per_second"], row["tokens_per_second"]))


def select(results: Sequence[Row], **facts: Any) -> list[Row]:
    """The rows of which the facts hold: `task="problems", corpus="copy"`."""
    return [row for row in results if all(row.get(key) == value for key, value in facts.items())]


def distinct(results: Sequence[Row], key: str) -> list[Any]:
    """The values of a key, in file order, once each."""
    return list(dict.fromkeys(row.get(key) for row in results))


def compare(
    results: Sequence[Row], where: Callable[[Row], float] = lambda row: int(row["length"]), **facts: Any
) -> Comparison:
    """The grid of the rows of which the facts hold; raises UserError where two of them would share a cell.

    Args:
      results: of one run; methods are named as among all of them.
      where: the place of a row in the grid.
    """
    rows: dict[tuple[str, float], Row] = {}
    for row in select(results, **facts):
        cell = row["method"], where(row)
        if cell in rows:
            raise UserError(f"two results for {cell[0]!r} at length {cell[1]}: report one run and one split at a time")
        rows[cell] = row
    trained_lengths = {int(row["trained_length"]) for row in rows.values()}
    if len(trained_lengths) != 1:
        raise UserError(f"a report needs results of one trained length, got {sorted(trained_lengths) or 'no rows'}")
    labels = {row["method"]: row["label"] for row in results}
    shared, in_full = collections.Counter(labels.values()), for_people(labels)
    return Comparison(
        labels={method: label if shared[label] == 1 else in_full[method] for method, label in labels.items()},
        trained_with=next(iter(rows.values()))["trained_with"],
        lengths=tuple(sorted({length for _, length in rows})),
        trained_length=trained_lengths.pop(),
        rows=rows,
    )


def estimate(row: Row | None, value: str, bounds: str) -> Estimate | None:
    """A stored row has null for what is not finite: an end that is not bounded."""
    if row is None or row.get(value) is None:
        return None
    low, high = row[f"{bounds}_low"], row[f"{bounds}_high"]
    return Estimate(float(row[value]), Interval(-math.inf if low is None else low, math.inf if high is None else high))
