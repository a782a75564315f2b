"""What a sweep came to: groups of trials that differ in their seed, and which group is selected."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lmarch.evaluation.statistics import Interval, seeds_interval
from lmarch.reporting.results import Estimate
from lmarch.sweeping.space import SEED, SEED_FIELDS, Point
from lmarch.sweeping.study import Trial


@dataclasses.dataclass(frozen=True)
class Group:
    """Trials that differ in their seed only."""

    point: Point
    trials: Sequence[Trial]

    @property
    def finished(self) -> list[Trial]:
        """Those that have a value, measured or not."""
        return [one for one in self.trials if one.state in ("finished", "trained")]

    @property
    def complete(self) -> bool:
        return len(self.finished) == len(self.trials)

    @property
    def validation(self) -> Estimate | None:
        return mean_over_seeds([one.record["value"] for one in self.finished])

    def at(self, key: tuple[str, str], name: str = "value") -> Estimate | None:
        """Of the bits per byte, or the gain, of a (method, multiple of the trained length) of `measured`.

        None as well where a seed has no finite value: a mean of the others would hide it.
        """
        found: list[Any] = [measured(one).get(key, {}).get(name) for one in self.finished]
        return None if None in found else mean_over_seeds(found)


def mean_over_seeds(values: Sequence[float]) -> Estimate | None:
    """Mean and its 95 % t interval, which for a single value has no width."""
    if not values:
        return None
    mean = statistics.mean(values)
    return Estimate(mean, seeds_interval(values) if len(values) > 1 else Interval(mean, mean))


def measured(trial: Trial) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(method, `4` trained lengths) -> its result row, along the first axis."""
    rows = trial.record.get("measured", [])
    axis = rows[0]["axis"] if rows else None
    own = [row for row in rows if row["axis"] == axis]
    return {
        ("" if _one_method(own) else row["method"], f"{row['length'] / row['trained_length']:g}"): row for row in own
    }


def _one_method(rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row["method"] for row in rows}) <= 1


def groups_of(trials: Sequence[Trial]) -> list[Group]:
    """Trials that differ in their seed only, together, under what they share; a draw that came twice counts once."""
    groups: dict[str, list[Trial]] = {}
    for one in (trial for trial in trials if trial.state != "repeated"):
        shared = {field: value for field, value in one.point.items() if field not in (SEED, *SEED_FIELDS)}
        groups.setdefault(json.dumps(shared), []).append(one)
    return [Group(json.loads(key), members) for key, members in groups.items()]


def selected(groups: Sequence[Group]) -> Group | None:
    """By RULE, of those whose trials all finished; what is beyond the trained length has no say.

    None as well where they were validated on different text, whose bits per byte do not compare.
    """
    complete = [group for group in groups if group.complete]
    return None if on_different_text(complete) else min(complete, key=in_order, default=None)


def on_different_text(groups: Sequence[Group]) -> bool:
    """Whether the trials that finished were validated on several texts, or on different rows of one."""
    return len({one.record.get("validation_text") for group in groups for one in group.finished}) > 1


def in_order(group: Group) -> float:
    """The best first, those without a value last."""
    return group.validation.value if group.validation else math.inf


def conditions(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """The (method, multiple) that were measured, ascending."""
    found = {key for one in trials for key in measured(one)}
    return sorted(found, key=lambda key: (key[0], float(key[1])))
