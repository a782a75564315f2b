"""Programs compiled side by side: most of a short check is compilation, and a GPU's host has idle cores."""

import concurrent.futures
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax

from benchmarks.gpu_check.record import Record, SkippedError

GIB = 2**30


class Program(NamedTuple):
    """A compiled function, and what it took; seconds are those of a thread beside others."""

    run: Any
    trace_seconds: float
    compile_seconds: float
    memory_gib: float  # arguments, results and temporaries, as the compiler plans them


def compiled(record: Record, lower: Callable[[], Any]) -> "Future[Program]":
    """`lower` traces and lowers a jitted function; what it raises, the future's result raises."""

    def work() -> Program:
        began = time.perf_counter()
        lowered = lower()
        traced = time.perf_counter()
        run = lowered.compile()
        sizes = run.memory_analysis()
        planned = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        planned -= sizes.alias_size_in_bytes
        return Program(run, traced - began, time.perf_counter() - traced, planned / GIB)

    record.compiling.append(future := record.compilers.submit(work))
    return future


def wait(record: Record) -> None:
    """Until all that was begun is compiled, or the time is up: compiling uses the device, which timing must have alone."""
    concurrent.futures.wait(record.compiling, timeout=record.left)
    done = sum(future.done() for future in record.compiling)
    print(f"{record.elapsed:6.1f} s  compiled {done} of {len(record.compiling)} programs so far", flush=True)


def require_memory(gib: float) -> None:
    """SkippedError if the device has less, rather than an exception in the middle of a run."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None and gib > limit / GIB:
        raise SkippedError(f"needs {gib:.1f} GiB, and JAX has {limit / GIB:.1f}")
