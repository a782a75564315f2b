"""How far a measurement is: a bar on a terminal, elsewhere a line now and then."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


class Bar:
    """Counts `unit`s up to `total`, in a `with` block."""

    def __init__(self, console: Console, unit: str, total: int) -> None:
        self._console, self._last, self._before = console, time.monotonic(), 0
        columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TextColumn(f"{unit}, ETA"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, description: str, done: int = 0) -> None:
        """What is under way now, and how many were done before it."""
        self._before = done
        self._progress.update(self._task, description=description, completed=done)

    def reach(self, count: int) -> None:
        """So many of what is under way."""
        self._progress.update(self._task, completed=self._before + count)

    def line(self, text: str, last: bool = False) -> None:
        """Said where there is no bar, unless it began or another line came a moment ago; the last one always."""
        if self._progress.disable and (last or time.monotonic() - self._last > SECONDS_BETWEEN_LINES):
            self._last = time.monotonic()
            self._console.print(f"  {text}")
