"""Making things ahead of their use, in a thread or in processes of Grain's."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import grain
from absl import flags

T = TypeVar("T")


def prefetched(make: Callable[[int], T], start: int, ahead: int, processes: int = 0) -> Generator[T, None, None]:
    """`make(start)`, `make(start + 1)`, ... without end and in order; some are made before they are asked for.

    What `make` raises is raised by the `next` that asks for it. After `close`, or an error, threads and processes are gone;
    processes also go when this one is killed.

    Args:
      make: of one thing by its number; with processes it is pickled, and what it makes comes back through a pipe.
      ahead: how many are made ahead, or a little more if processes share them.
      processes: how many make them; 0: a thread of this process does.
    """
    assert ahead > 0
    things = grain.MapDataset.range(start, sys.maxsize).map(make)
    dataset = _by_processes(things, ahead, processes) if processes else _by_a_thread(things, ahead)
    with contextlib.ExitStack() as stack:
        with _deaf_processes() if processes else contextlib.nullcontext():
            made = stack.enter_context(contextlib.closing(iter(dataset)))
            first = next(made)  # what starts them
        yield first
        yield from made


def _by_a_thread(things: grain.MapDataset, ahead: int) -> grain.IterDataset:
    return things.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead))


def _by_processes(things: grain.MapDataset, ahead: int, processes: int) -> grain.IterDataset:
    if not flags.FLAGS.is_parsed():  # Grain asks for flags, which only programs of absl's parse
        flags.FLAGS.mark_as_parsed()
    # Through a pipe: shared memory outlives a process that is killed, and is slower for what is small.
    piped = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    in_order = things.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return grain.experimental.WithOptionsIterDataset(in_order, piped).mp_prefetch(
        grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=-(-ahead // processes)),
        worker_init_fn=_end_with_parent,
    )


@contextlib.contextmanager
def _deaf_processes() -> Iterator[None]:
    """Processes that start inside never hear what stops a run: this process does, and closes them when it is done."""
    resource_tracker.ensure_running()  # which, when it starts later, lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(index: int, count: int) -> None:
    """Makes a process end when the one that started it does, however that is."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
