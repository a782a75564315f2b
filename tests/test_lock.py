"""Who may write a folder: one process, wherever it runs."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmarch import lock
from lmarch.errors import UserError
from lmarch.lock import Lock, alone_in

HOLDER = """
import sys, time
from pathlib import Path
from lmarch.lock import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path):
    """A process that holds the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_who_comes_second_learns_who_is_there_and_gets_in_after_a_kill(other, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error, alone_in(tmp_path, "wait"):
        pass
    assert f"is being written by process {other.pid} on {lock.HOST} (-c {tmp_path}/lock, since " in str(error.value)
    assert str(error.value).endswith(": wait")
    other.kill()
    other.wait()
    with alone_in(tmp_path, "wait"):
        assert Lock(tmp_path / "lock").acquire(wait=False) is False
    assert Lock(tmp_path / "lock").holder() is None


def written_by(host: str, folder: Path, silent: float) -> None:
    """The lock file that another machine has written its name into, and touched so many seconds ago."""
    file = folder / "lock"
    file.write_text(json.dumps({"host": host, "process": 1, "command": "lmarch train", "since": "then"}))
    os.utime(file, (time.time() - silent,) * 2)


def test_a_holder_on_another_machine_is_seen_where_locks_are_local(tmp_path: Path) -> None:
    """A mount with local locks lets both machines lock; the name that one has written is what the other sees."""
    written_by("elsewhere", tmp_path, silent=lock.SILENCE / 2)
    assert not Lock(tmp_path / "lock").acquire(wait=False)
    written_by("elsewhere", tmp_path, silent=lock.SILENCE * 2)  # it has died
    assert Lock(tmp_path / "lock").acquire(wait=False)


def test_a_holder_elsewhere_that_has_died_is_waited_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    monkeypatch.setattr(lock, "BEAT", 0.2)
    written_by("elsewhere", tmp_path, silent=0)
    with alone_in(tmp_path, "wait"):
        pass


def test_a_lock_that_is_held_is_touched(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "_BEATING", lock.threading.Lock())  # a thread of this test's own
    file = tmp_path / "lock"
    with Lock(file):
        os.utime(file, (0, 0))
        until = time.monotonic() + 10
        while file.stat().st_mtime == 0:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_where_there_are_no_locks_it_is_said_and_names_keep_others_out(tmp_path: Path, monkeypatch) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="this file system has no locks"):
        assert Lock(tmp_path / "lock").acquire(wait=False)
    written_by(lock.HOST, tmp_path, silent=0)  # process 1 lives
    with pytest.warns(UserWarning, match="no locks"):
        assert not Lock(tmp_path / "lock").acquire(wait=False)
