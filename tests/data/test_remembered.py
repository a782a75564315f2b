"""What a corpus contains is remembered only as long as its files cannot have changed."""

import os

import pytest

from lmarch.config import DataConfig
from lmarch.data import remembered
from lmarch.data.corpora import load_documents
from lmarch.data.documents import Documents
from lmarch.data.remembered import contents_of


@pytest.fixture
def data(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    for n in range(3):
        (tmp_path / "texts" / f"{n}.txt").write_text(f"text {n}\n" * 30)
    monkeypatch.setattr(remembered, "_SETTLED", -1.0)  # files of tests are never a minute old
    return DataConfig(corpus=f"text:{tmp_path}/texts/*", cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch):
    """How often all text was read."""
    times, contents = [], Documents.contents.func

    def count(documents):
        times.append(documents.split)
        return contents(documents)

    monkeypatch.setattr(Documents, "contents", property(count))
    return times


def found(data, split="train"):
    return contents_of(data, load_documents(data, split))


def test_files_that_have_not_changed_are_not_read_again(data, read):
    assert found(data) == found(data)
    assert read == ["train"]
    assert found(data, "test") != found(data)
    assert read == ["train", "test"]


def test_a_change_is_noticed_that_leaves_size_and_date_as_they_were(data, tmp_path, read):
    file = tmp_path / "texts" / "1.txt"
    before, stat = found(data), file.stat()
    file.write_text(file.read_text().replace("text", "TEXT"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert found(data) != before
    assert read == ["train", "train"]


def test_another_file_that_joins_is_noticed(data, tmp_path):
    before = found(data)
    (tmp_path / "texts" / "new.txt").write_text("text " * 50)
    assert found(data) != before


def test_files_that_were_changed_a_moment_ago_are_not_trusted(data, read, monkeypatch):
    """The clock of a file system has ticks, and a memory map may still be written to."""
    monkeypatch.setattr(remembered, "_SETTLED", 60.0)
    found(data)
    found(data)
    assert read == ["train", "train"]
