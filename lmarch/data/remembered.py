"""What a corpus was found to contain, as long as none of its files has changed since.

Hashing all text takes a second per gigabyte at each start. Whether files are the ones of before is told from their paths,
sizes, inodes and the times of their last change. That time (`ctime`) is set by the system whenever a file is written, renamed
or given another date; no program can choose it. It is trusted once it is a minute old: by then the system has written out
what a program may still have been writing through a memory map.
"""

import dataclasses
import os
import time
from pathlib import Path

from lmarch.config import DataConfig, digest
from lmarch.data.documents import Contents, Documents
from lmarch.data.kept_folders import cache_folder, keep, kept_in
from lmarch.provenance import code_digest

_SETTLED = 60.0  # seconds since the last change


def contents_of(data: DataConfig, documents: Documents) -> Contents:
    """What `documents` hold: from the cache if their files are the ones of before, else by reading all of them."""
    before = state_of(documents)
    if before is None:
        return documents.contents
    folder = cache_folder(data, "contents") / digest([_reading(data, documents), before])
    known = kept_in(folder)
    if known is not None:
        return Contents(**known.facts)
    contents = documents.contents
    newest = max(changed for *_, changed in before)
    if state_of(documents) == before and time.time() - newest / 1e9 > _SETTLED:
        keep(folder, {}, dataclasses.asdict(contents))
    return contents


def state_of(documents: Documents) -> list[tuple[str, int, int, int, int]] | None:
    """Of each file what tells whether it has changed, the time of that last; None: it cannot be told."""
    try:
        return [_of_file(file) for file in documents.files] or None
    except OSError:  # what is wrong is said where it is read
        return None


def _of_file(file: Path) -> tuple[str, int, int, int, int]:
    found = os.stat(file)
    return str(file.absolute()), found.st_size, found.st_ino, found.st_dev, found.st_ctime_ns


def _reading(data: DataConfig, documents: Documents) -> list[object]:
    """All else that decides what is read of the files: the config, and the code that reads them."""
    code = code_digest(("data",))
    return [documents.corpus, documents.split, data.splits, data.text_field, code]
