"""The parts in their order: what is short and tells most comes first."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu_check import attention, prefill, resume, training
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.record import Figures, Record

PARTS: dict[str, Callable[[Record, Plan], None]] = {
    "attention": lambda record, plan: attention.check(record, plan.attention),
    "training": training.check,
    "resume": lambda record, plan: resume.check(record, plan.resume),
    "prefill": prefill.check,
}


def check(plan: Plan, out: Path, seconds: float | None = None, workers: int | None = None) -> int:
    """All parts; the record lies in `out`. Returns the exit status.

    Args:
      seconds: after so many no measurement is begun; default: the plan's.
      workers: programs compiled side by side.
    """
    record = Record(out, seconds or plan.seconds, workers, plan=dataclasses.asdict(plan))
    for name, part in PARTS.items():
        _run(record, name, part, plan)
    return record.finish()


def _run(record: Record, name: str, part: Callable[[Record, Plan], None], plan: Plan) -> None:
    """Rows of the part; one more if it breaks outside of them, or if it would begin too late."""
    if not record.left:
        record.measure(name, "all of it", dict)
        return
    try:
        part(record, plan)
    except Exception as error:  # the other parts are still wanted
        raised = error

        def again() -> Figures:
            raise raised

        record.measure(name, "the rest", again)
