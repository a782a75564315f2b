"""Ctrl-C and SIGTERM ask the loop to save and stop at the next step; a second one stops at once."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """`with StopRequest() as stop:` ... `stop.signal` is the signal that asked, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def exit_status(self) -> int:
        """What the shell sees: 0, or 128 + the signal's number."""
        return 0 if self.signal is None else 128 + self.signal
