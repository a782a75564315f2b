"""A sweep's state at a glance: for the terminal, while it runs and after."""

import json
from collections import Counter

from rich.table import Table

from lmarch.sweeping.plan import describe
from lmarch.sweeping.study import Trial
from lmarch.sweeping.summary import groups_of, selected
from lmarch.training.metrics import read_metrics

STATES = ("finished", "trained", "repeated", "pruned", "failed", "running", "interrupted", "again", "waiting")


def status_line(trials: list[Trial]) -> str:
    """`7 of 12 trials: 5 finished, 1 failed, 1 running; about 3 minutes left`."""
    counts = Counter(one.state for one in trials)
    ended = sum(counts[state] for state in ("finished", "trained", "repeated", "pruned", "failed"))
    parts = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    left = seconds_left(trials)
    return f"{ended} of {len(trials)} trials: {parts}" + (f"; about {duration(left)} left" if left else "")


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_left(trials: list[Trial]) -> float | None:
    """By the mean time of those that finished and how many run at once; None if it cannot be told."""
    took = [one.record["seconds"] for one in trials if one.state == "finished"]
    running = sum(one.state == "running" for one in trials)
    todo = sum(one.state in ("waiting", "interrupted", "again") for one in trials) + running / 2
    return sum(took) / len(took) * todo / running if took and running else None


def status_table(trials: list[Trial]) -> Table:
    """What runs, what failed and why, and the best so far."""
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "state", "step", "bits per byte", "what"):
        table.add_column(name, overflow="fold")
    best = selected(groups_of(trials))
    shown = [one for one in trials if one.state in ("running", "interrupted", "again", "trained", "failed")]
    for one in [*shown, *(best.finished if best else [])]:
        state = "best" if best and one in best.finished else one.state
        step, bits = _progress(one)
        what = describe(one.point) + (f": {one.record['reason']}" if one.record.get("reason") else "")
        table.add_row(str(one.number), state, step, bits, what)
    return table


def _progress(trial: Trial) -> tuple[str, str]:
    """The last step that was logged, and the last validation."""
    entries = read_metrics(trial.folder) if trial.folder else []
    steps = [entry["step"] for entry in entries]
    validated = [e["validation_bits_per_byte"] for e in entries if e.get("validation_bits_per_byte") is not None]
    total = _total(trial)
    return (f"{max(steps)}{total}" if steps else ""), (f"{validated[-1]:.4f}" if validated else "")


def _total(trial: Trial) -> str:
    assert trial.folder is not None
    file = trial.folder / "config.json"
    steps = json.loads(file.read_text())["train"]["steps"] if file.exists() else None
    return f"/{steps}" if steps else ""
