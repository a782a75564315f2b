"""Making things ahead of their use."""

import collections
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Iterator[T], Generic[T]):
    """`make(start)`, `make(start + 1)`, ... without end; a thread keeps the next `ahead` of them ready.

    What `make` raises is raised by the `next` that asks for it. After `close` the thread is gone.
    """

    def __init__(self, make: Callable[[int], T], start: int, ahead: int) -> None:
        assert ahead > 0
        self._make = make
        self._indices = itertools.count(start)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ready: collections.deque[Future[T]] = collections.deque()
        for _ in range(ahead):
            self._order()

    def __next__(self) -> T:
        if not self._ready:
            raise StopIteration  # closed
        future = self._ready.popleft()
        self._order()
        return future.result()

    def close(self) -> None:
        """Ends the iteration and waits for the thread to end. May be called twice."""
        self._ready.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _order(self) -> None:
        self._ready.append(self._executor.submit(self._make, next(self._indices)))
