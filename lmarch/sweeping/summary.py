"""What a sweep came to: a row a trial, a row a group of seeds, and which group is selected."""

import csv
import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from lmarch.sweeping.plan import RULE
from lmarch.sweeping.space import Point
from lmarch.sweeping.study import Study, Trial, seed_groups
from lmarch.training.workdir import write_json


@dataclasses.dataclass(frozen=True)
class Group:
    """Trials that differ in their seed only."""

    point: Point
    trials: Sequence[Trial]

    @property
    def finished(self) -> list[Trial]:
        return [one for one in self.trials if one.state == "finished"]

    @property
    def complete(self) -> bool:
        return len(self.finished) == len(self.trials)

    @property
    def validation(self) -> tuple[float | None, float | None]:
        return mean_over_seeds([one.record["value"] for one in self.finished])

    def at(self, key: tuple[str, str], name: str = "value") -> tuple[float | None, float | None]:
        """Of the bits per byte, or the gain, of a (method, multiple of the trained length) of `measured`."""
        found = [measured(one).get(key, {}).get(name) for one in self.finished]
        return mean_over_seeds([value for value in found if value is not None])


def mean_over_seeds(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and half the width of its 95 % t interval; none with fewer than two."""
    if not values:
        return None, None
    if len(values) == 1:
        return values[0], None
    standard_error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(stdtrit(len(values) - 1, 0.975)) * standard_error


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
    return [Group(point, members) for point, members in seed_groups(list(trials))]


def selected(groups: Sequence[Group]) -> Group | None:
    """By RULE, of those whose trials all finished; what is beyond the trained length has no say."""
    complete = [group for group in groups if group.complete]
    return min(complete, key=lambda group: group.validation[0] or math.inf, default=None)


def conditions(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """The (method, multiple) that were measured, ascending."""
    found = {key for one in trials for key in measured(one)}
    return sorted(found, key=lambda key: (key[0], float(key[1])))


def trial_rows(study: Study) -> list[dict[str, Any]]:
    """One flat row a trial: what it is, how it ended, and every measurement."""
    trials, made = study.trials(), []
    for one in trials:
        row: dict[str, Any] = {"trial": one.number, "state": one.state}
        row |= {field: one.point.get(field) for field in study.plan.space.fields}
        row["validation_bits_per_byte"] = one.record.get("value")
        for method, multiple in conditions(trials):
            at = measured(one).get((method, multiple), {})
            name = f"{method} at {multiple} L".strip()
            row |= {f"bits per byte {name}": at.get("value"), f"gain {name}": at.get("gain")}
        row |= {key: one.record.get(key) for key in ("parameters", "training_flops", "steps", "seconds", "reason")}
        made.append({**row, "folder": one.folder and str(one.folder.relative_to(study.workdir))})
    return made


def collect(workdir: Path) -> Path:
    """Writes trials.csv, trials.json, selected.json and report.html; returns the report's path."""
    from lmarch.sweeping.report import write_sweep  # only here, so that nothing needs matplotlib to sweep

    study = Study(workdir)
    rows, groups = trial_rows(study), groups_of(study.trials())
    with open(workdir / "trials.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (workdir / "trials.json").write_text(json.dumps(rows, indent=1) + "\n")
    best = selected(groups)
    chosen = None if best is None else {"point": dict(best.point), "validation_bits_per_byte": best.validation[0]}
    write_json(workdir / "selected.json", {"rule": RULE, "selected": chosen})
    return write_sweep(study, groups, workdir)
