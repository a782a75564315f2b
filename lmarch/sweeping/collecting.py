"""What a sweep leaves beside its trials: a table of them, which group is selected, and the report."""

import csv
from pathlib import Path
from typing import Any

from lmarch.durable import replacing, write_json
from lmarch.lock import Lock
from lmarch.sweeping.plan import RULE
from lmarch.sweeping.study import Study
from lmarch.sweeping.summary import conditions, groups_of, measured, selected


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
    with Lock(workdir / "report.lock"):  # two that worked at it may come to its end together
        return _collect(workdir)


def _collect(workdir: Path) -> Path:
    from lmarch.sweeping.report import write_sweep  # only here: nothing else needs matplotlib to sweep

    study = Study(workdir)
    rows, groups = trial_rows(study), groups_of(study.trials())
    with replacing(workdir / "trials.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_json(workdir / "trials.json", rows)
    best = selected(groups)
    value = best.validation.value if best and best.validation else None
    chosen = None if best is None else {"point": dict(best.point), "validation_bits_per_byte": value}
    write_json(workdir / "selected.json", {"rule": RULE, "selected": chosen})
    return write_sweep(study, groups, workdir)
