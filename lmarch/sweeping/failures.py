"""What becomes of a trial that failed: it has failed for good, or is tried again, and by whom."""

from collections.abc import Mapping
from typing import Any

import jax

from lmarch.errors import MachineError, UserError

# How often a trial may fail in each way until it has failed for good.
ATTEMPTS = {
    "config": 1,  # its own settings: it would fail again
    "machine": 4,  # a device, a disk: it may do elsewhere, and is left to another worker
    "unknown": 2,  # a mistake in the program, or chance
}


def kind_of(error: Exception) -> str:
    """Which of ATTEMPTS a failure counts as."""
    if isinstance(error, (MachineError, OSError, MemoryError, jax.errors.JaxRuntimeError)):
        return "machine"
    return "config" if isinstance(error, UserError) else "unknown"


def reason_of(error: Exception) -> str:
    """One line that says what went wrong."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text else type(error).__name__


def for_good(failures: list[dict[str, Any]]) -> bool:
    """Whether a trial with these failures is not tried again."""
    counted = [one["kind"] for one in failures]
    return any(counted.count(kind) >= most for kind, most in ATTEMPTS.items())


def left_to_others(record: Mapping[str, Any], worker: str) -> bool:
    """Whether a trial is tried again, but not by this worker, whose machine it failed on."""
    return any(one["kind"] == "machine" and one["worker"] == worker for one in record.get("failures", []))
