"""One process at a time writes a folder, and whoever comes second learns who that is.

A lock is `flock` on a file: the system frees it when its holder ends, however it ends. Where machines share a folder that is
not enough: a mount with local locks keeps no other machine out, and some file systems have no locks. So the holder also writes
its name into the file and touches it every few seconds. A name that another machine has touched lately counts as a lock; where
there are no locks at all the names are all there is, which is said.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from lmarch.durable import HOST, alive, write_json
from lmarch.errors import MachineError
from lmarch.provenance import now

LOCK = "lock"  # the file, in a folder that one process writes
BEAT = 10.0  # seconds between two touches of what is held
SILENCE = 60.0  # seconds without one after which a holder on another machine counts as dead
SETTLING = 0.2  # seconds in which processes that wrote their names at once see who was last
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Lock:
    """The lock of one file, free or held by this object."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None
        self._token = secrets.token_hex(8)  # tells this object's name from others of the same process
        self.certain = True  # of the last failure: the system says so, and not only a name that another machine left

    def acquire(self, wait: bool = True) -> bool:
        """Whether it is held now; without `wait` it is not if another has it."""
        assert self._descriptor is None, f"{self._file} is held already"
        while not self._try(wait):
            if not wait:
                return False
            time.sleep(0.2)
        return True

    def free(self) -> bool:
        """Whether nobody holds it. To ask leaves no trace: a holder whose touches are late keeps its name."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locks = _flock(descriptor, wait=False)
            return locks is not None and not self._named_by_another(descriptor, by_this_machine=not locks)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Let others have it; nothing happens if it is not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        _HELD.pop(descriptor, None)
        with contextlib.suppress(OSError):  # without its name the next one need not ask whether its owner lives
            if (self.holder() or {}).get("token") == self._token:
                os.truncate(self._file, 0)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for processes that were forked meanwhile
        os.close(descriptor)

    def holder(self) -> dict[str, Any] | None:
        """Who has written its name: `host`, `process`, `command`, `since`; None: nobody."""
        try:
            holder = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return None
        known = isinstance(holder, dict) and {"host", "process", "command", "since"} <= holder.keys()
        return holder if known else None

    def _try(self, wait: bool) -> bool:
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locks = _flock(descriptor, wait)
            self.certain = locks is None
            held = not self.certain and not self._named_by_another(descriptor, by_this_machine=not locks)
            if held and locks:
                with contextlib.suppress(OSError):  # a full disk: the lock itself holds
                    self._write_name(descriptor)
            elif held:
                held = self._settle()
        except BaseException:
            os.close(descriptor)
            raise
        if not held:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        _keep_touching(descriptor, self)
        return True

    def _named_by_another(self, descriptor: int, by_this_machine: bool) -> bool:
        """Whether the file names a holder that seems to live: by its touch, or on this machine by its process."""
        holder = self.holder()
        if holder is None or holder.get("token") == self._token:
            return False
        if holder["host"] == HOST:
            return by_this_machine and alive(holder["process"])
        with tempfile.TemporaryFile(dir=self._file.parent) as probe:  # the clock of the disk, not that of this machine
            return abs(os.fstat(probe.fileno()).st_mtime - os.fstat(descriptor).st_mtime) < SILENCE

    def _settle(self) -> bool:
        """Whether the name is this one's a moment after it was written: where there are no locks, the last one has it."""
        write_json(self._file, self._name)
        time.sleep(SETTLING)
        return (self.holder() or {}).get("token") == self._token

    def _write_name(self, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(self._name).encode(), 0)

    @property
    def _name(self) -> dict[str, Any]:
        command = " ".join(sys.argv)
        return {"host": HOST, "process": os.getpid(), "command": command, "since": now(), "token": self._token}

    def touch(self) -> None:
        """Show that the holder lives; a name that is gone is written again."""
        if self.holder() is None and self._descriptor is not None:
            self._write_name(self._descriptor)
        os.utime(self._file)

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Busy(MachineError):
    """Another process holds what this one wants to write."""


@contextlib.contextmanager
def alone_in(folder: Path, advice: str) -> Iterator[None]:
    """Hold the lock of a folder that this process is going to write.

    A holder on another machine that has just died is waited for until that is certain.

    Args:
      advice: what to do if another has it, at the end of the message.

    Raises:
      Busy: another process holds it.
    """
    lock = Lock(folder / LOCK)
    until, told = time.monotonic() + SILENCE, False
    while not lock.acquire(wait=False):
        who = described(lock.holder())
        if lock.certain or time.monotonic() > until:
            raise Busy(f"{folder} is being written by {who}: {advice}")
        if not told:
            print(
                f"{folder} was being written by {who}: waiting up to {SILENCE:.0f} s to see whether it lives",
                flush=True,
            )
        told = True
        time.sleep(BEAT / 10)
    try:
        yield
    finally:
        lock.release()


def described(holder: dict[str, Any] | None) -> str:
    """A holder in words."""
    if holder is None:
        return "another process"
    return f"process {holder['process']} on {holder['host']} ({holder['command']}, since {holder['since']})"


def _flock(descriptor: int, wait: bool) -> bool | None:
    """True: locked; None: another has it; False: this file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            "this file system has no locks: who else writes a folder is only known by the names they leave",
            stacklevel=2,
        )
        return False
    return True


_HELD: dict[int, Lock] = {}  # by descriptor
_BEATING = threading.Lock()  # held from when the thread was started on


def _keep_touching(descriptor: int, lock: Lock) -> None:
    _HELD[descriptor] = lock
    if _BEATING.acquire(blocking=False):
        threading.Thread(target=_beat, name="locks", daemon=True).start()


def _beat() -> None:
    while True:
        time.sleep(BEAT)
        for lock in list(_HELD.values()):
            with contextlib.suppress(OSError):  # released meanwhile, or the disk is full
                lock.touch()
