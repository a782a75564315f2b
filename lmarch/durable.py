"""Files that a kill, a full disk or a second process leave whole: what was there before, or all of what is new.

What is written once is written beside its place, flushed to the disk and renamed into it. What grows, grows by whole lines; a
reader leaves out a line that a kill cut off, and says so of one that is damaged.
"""

import contextlib
import glob
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmarch.errors import MachineError

HOST = socket.gethostname()
ABANDONED = 3600.0  # seconds since an unfinished file was written; writing one takes a few
_PARTIAL = ".partial-"


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block ends, what lies there takes the place of `file` in one step.

    The path has the suffix of `file` and a name of this process's own, so that two processes which write the same file leave
    the whole of one of them. If the block raises, `file` is as it was. What processes of this machine left when they were
    killed is removed.
    """
    mine = file.with_name(f".{file.stem}{_PARTIAL}{HOST}-{os.getpid()}{file.suffix}")
    _remove_orphans(file)
    try:
        yield mine
        to_disk(mine)
        mine.replace(file)
        with contextlib.suppress(OSError):  # some network file systems cannot do this for folders
            to_disk(file.parent)
    finally:
        mine.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path, advice: str) -> Iterator[None]:
    """Make a folder, and turn what keeps the block from writing into it (full disk, no permission) into a MachineError.

    Args:
      advice: what to do, at the end of the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise MachineError(f"{folder} cannot be written ({error.strerror or error}): {advice}") from error


def write_text(file: Path, text: str) -> None:
    """Replace the file's content, as UTF-8; names of files that are none are kept as they are."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(file: Path, value: Any) -> None:
    """Replace the file's content by a value that JSON can hold; what it cannot is written as text."""
    write_text(file, json.dumps(value, indent=2, default=str) + "\n")


def append_json(file: Path, value: Any) -> None:
    """Add one line to a file of JSON lines, and have it on the disk. A line that a kill cut off before is ended first."""
    torn = file.is_file() and not _ends_in_newline(file)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(("\n" if torn else "") + json.dumps(value) + "\n")
        flush_to_disk(lines)


def remove_torn_end(file: Path) -> None:
    """Cut a file of lines after its last whole one; nothing happens to a file that ends in one, or is not there."""
    if not file.is_file() or _ends_in_newline(file):
        return
    with file.open("r+b") as lines:
        lines.truncate(lines.read().rfind(b"\n") + 1)


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none if there is no file.

    A last line without an end was cut off by a kill and is left out. Another one that is no object is left out with a warning
    that names it.
    """
    return [value for _, value in parsed_lines(file) if value is not None]


def parsed_lines(file: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Every whole line with its object; None for a line that is damaged, of which a warning is given."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[
        :-1
    ]  # nothing else ends a line of JSON
    parsed = [(f"{line}\n", _object(line)) for line in lines]
    damaged = [str(number) for number, (_, value) in enumerate(parsed, 1) if value is None]
    if damaged:
        warnings.warn(f"{file}: line {', '.join(damaged)} is damaged and left out", stacklevel=3)
    return parsed


def flush_to_disk(file: Any) -> None:
    """Return when what was written to an open file is on the disk, so that a crash of the machine does not lose it."""
    file.flush()
    os.fsync(file.fileno())


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _ends_in_newline(file: Path) -> bool:
    with file.open("rb") as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(max(0, size - 1))
        return content.read(1) in (b"\n", b"")


def to_disk(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_orphans(file: Path) -> None:
    for other in file.parent.glob(f".{glob.escape(file.stem)}{_PARTIAL}{HOST}-*{file.suffix}"):
        number = other.name.removesuffix(file.suffix).rpartition("-")[2]
        with contextlib.suppress(FileNotFoundError):
            old = (
                time.time() - other.stat().st_mtime > ABANDONED
            )  # containers may share a name and number their own processes
            if old and number.isdigit() and not alive(int(number)):
                other.unlink()


def alive(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
