"""Ctrl-C and SIGTERM ask the loop to save and stop at the next step; a second one stops at once."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """`with StopRequest() as stop:` ... `stop.signal` is the signal that asked, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        asking = [signal.SIGINT, *([] if deaf_to_sigterm() else [signal.SIGTERM])]
        self._before = {s: signal.signal(s, self._ask) for s in asking}
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


def deaf_to_sigterm() -> bool:
    """Whether whoever started this process had it ignore SIGTERM: it then stays so, as is the custom."""
    return signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
