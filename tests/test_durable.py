"""Files that a kill or a second process leaves whole."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmarch import durable
from lmarch.durable import append_json, read_json_lines, replacing, write_json, write_text


def test_a_file_has_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"n": 1})

    def fail() -> None:
        with replacing(file) as partial:
            partial.write_text("half of")
            assert json.loads(file.read_text()) == {"n": 1}
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert json.loads(file.read_text()) == {"n": 1}
    assert list(tmp_path.iterdir()) == [file]


KILLED = """
import os, signal, sys
from pathlib import Path
from lmarch.durable import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half of")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_gone_after_the_next_write(tmp_path: Path) -> None:
    file = tmp_path / "[a]*.json"  # a name that is no pattern
    write_text(file, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {file}
    write_text(file, "old")
    assert left.exists()  # who knows whose it is
    os.utime(left, (0, 0))
    write_text(file, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("[a]*.json", "new")]


AGAIN_AND_AGAIN = """
import sys
from pathlib import Path
from lmarch.durable import write_text
for _ in range(50):
    write_text(Path(sys.argv[1]), sys.argv[2] * 100_000)
"""


def test_two_processes_that_write_one_file_leave_the_whole_of_one_of_them(tmp_path: Path) -> None:
    """With one name for both partial files, a rename takes away what the other is still writing."""
    file, whole = tmp_path / "shared", {letter * 100_000 for letter in "ab"}
    writers = [subprocess.Popen([sys.executable, "-c", AGAIN_AND_AGAIN, str(file), letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        assert not file.exists() or file.read_text() in whole
    assert [writer.returncode for writer in writers] == [0, 0]
    assert file.read_text() in whole


def test_lines_survive_a_torn_end_and_a_damaged_middle(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"n": 1}\n{"n": \xff\x00 2}\n[3]\n{"n": 4}\n{"n"')
    with pytest.warns(UserWarning, match=r"lines.jsonl: line 2, 3 is damaged and left out"):
        assert read_json_lines(file) == [{"n": 1}, {"n": 4}]
    append_json(file, {"n": 5})
    with pytest.warns(UserWarning, match="line 2, 3, 5"):
        assert read_json_lines(file) == [{"n": 1}, {"n": 4}, {"n": 5}]
    assert read_json_lines(tmp_path / "none") == []


def test_what_is_written_is_on_the_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch) -> None:
    """A crash of the machine finds the old file or the new one, not an empty one of the new name."""
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(durable.os, "fsync", lambda descriptor: (order.append("flush"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, other: (order.append("rename"), replace(path, other))[1])
    write_text(tmp_path / "a", "text")
    assert order == ["flush", "rename", "flush"]
