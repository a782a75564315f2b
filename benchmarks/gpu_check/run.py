"""The parts in their order: what takes no time of its own first, while other parts' programs are still compiled."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.record import Figures, Record, SkippedError

# A module each. Its `begin` hands programs to the compilers, and returns what measures them and adds the part's rows.
PARTS = ("attention", "resume", "training", "prefill")


def begin(part: str, record: Record, plan: Plan) -> Callable[[], object]:
    """Imported only here, so that a library that one part alone needs is missing there alone."""
    begun: Callable[[], object] = importlib.import_module(f"benchmarks.gpu_check.{part}").begin(record, plan)
    return begun


def check(plan: Plan, out: Path, seconds: float | None = None, workers: int | None = None) -> int:
    """All parts; the record lies in `out`. Returns the exit status.

    Args:
      seconds: after so many no measurement is begun; default: the plan's.
      workers: programs compiled side by side.
    """
    record = Record(out, seconds or plan.seconds, workers, plan=dataclasses.asdict(plan))
    begun = {part: _guarded(record, part, functools.partial(begin, part, record, plan)) for part in PARTS}
    for part, measure in begun.items():
        if measure is not None:
            _guarded(record, part, measure)
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
