"""The parts in their order: what is short and tells most comes first."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import attention, prefill, resume, training
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.record import Figures, Record, SkippedError

# A part begins by handing its programs to the compilers, and returns what measures them and adds its rows.
Part = Callable[[Record, Plan], Callable[[], object]]
PARTS: dict[str, Part] = {
    "attention": lambda record, plan: attention.begin(record, plan.attention),
    "training": training.begin,
    "resume": lambda record, plan: resume.begin(record, plan.resume),
    "prefill": prefill.begin,
}


def check(plan: Plan, out: Path, seconds: float | None = None, workers: int | None = None) -> int:
    """All parts; the record lies in `out`. Returns the exit status.

    Args:
      seconds: after so many no measurement is begun; default: the plan's.
      workers: programs compiled side by side.
    """
    record = Record(out, seconds or plan.seconds, workers, plan=dataclasses.asdict(plan))
    begun = {name: _guarded(record, name, lambda part=part: part(record, plan)) for name, part in PARTS.items()}
    for name, measure in begun.items():
        if measure is not None:
            _guarded(record, name, measure)
    return record.finish()


def _guarded(record: Record, part: str, work: Callable[[], Any]) -> Any:
    """What `work()` returns; a row that says so if it breaks outside of any, or would begin too late."""
    try:
        if record.left:
            return work()
        error: Exception = SkippedError("time")
    except Exception as raised:  # the other parts are still wanted
        error = raised

    def again() -> Figures:
        raise error

    record.measure(part, "all that is not above", again)
    return None
