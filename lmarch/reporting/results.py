"""The rows of `results.jsonl` as one grid of method × window length."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lmarch.errors import UserError
from lmarch.evaluation.statistics import Interval

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number in bits per byte and its 95 % interval."""

    value: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every method (in file order) at every window length (ascending); a pair that was not evaluated has no row."""

    labels: dict[str, str]
    lengths: tuple[int, ...]
    trained_length: int
    rows: dict[tuple[str, int], Row]

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @property
    def vanilla(self) -> str | None:
        """The method the model was trained with, if it is among the results."""
        return next((method for (method, _), row in self.rows.items() if method == row["trained_with"]), None)

    def multiple(self, length: int) -> str:
        """A length in units of the trained length: '1.5'."""
        return f"{length / self.trained_length:.3g}"

    def value(self, method: str, length: int) -> Estimate | None:
        """Bits per byte of the targets."""
        return _estimate(self.rows.get((method, length)), "value", "ci")

    def crop(self, length: int) -> Estimate | None:
        """Bits per byte of the same targets with the unmodified model and the context cut to the trained length."""
        row = next((row for (_, row_length), row in self.rows.items() if row_length == length), None)
        return _estimate(row, "crop", "crop")

    def gain(self, method: str, length: int) -> Estimate | None:
        """Context gain: crop − value; positive where the longer context helps."""
        return _estimate(self.rows.get((method, length)), "gain", "gain")

    def cost(self, method: str, length: int) -> Estimate | None:
        """Bits per byte at this length minus those of the same method at the trained length."""
        return _estimate(self.rows.get((method, length)), "vs_trained", "vs_trained")


def by_axis(results: Sequence[Row]) -> dict[str | None, list[Row]]:
    """The rows of every axis that the context grew along, in file order; a causal decoder has one, without a name."""
    rows: dict[str | None, list[Row]] = {}
    for row in results:
        rows.setdefault(row.get("axis"), []).append(row)
    return rows


def compare(results: Sequence[Row]) -> Comparison:
    """The grid of one run's paired evaluation; raises UserError where two rows would share a cell."""
    rows: dict[tuple[str, int], Row] = {}
    labels: dict[str, str] = {}
    for row in results:
        if row["task"] != "paired" or row["metric"] != "bpb":
            continue
        cell = row["method"], int(row["length"])
        if cell in rows:
            raise UserError(f"two results for {cell[0]!r} at length {cell[1]}: report one run and one split at a time")
        rows[cell] = row
        labels[row["method"]] = row["label"]
    trained_lengths = {int(row["trained_length"]) for row in rows.values()}
    if len(trained_lengths) != 1:
        raise UserError(f"a report needs results of one trained length, got {sorted(trained_lengths) or 'no rows'}")
    shared = collections.Counter(labels.values())
    return Comparison(
        labels={method: label if shared[label] == 1 else method for method, label in labels.items()},
        lengths=tuple(sorted({length for _, length in rows})),
        trained_length=trained_lengths.pop(),
        rows=rows,
    )


def _estimate(row: Row | None, value: str, bounds: str) -> Estimate | None:
    if row is None or row.get(value) is None:
        return None
    return Estimate(float(row[value]), Interval(float(row[f"{bounds}_low"]), float(row[f"{bounds}_high"])))
