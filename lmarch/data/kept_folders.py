"""The folder for what can be made again, prepared corpora and packed rows, and how it is written.

What is kept is a folder of arrays and facts that is there whole or not at all, with checksums of every byte of it.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmarch.config import DataConfig
from lmarch.durable import ABANDONED, to_disk, writing
from lmarch.errors import UserError

_FACTS = "facts.json"
_PARTIAL = ".partial-"
logger = logging.getLogger(__name__)


def cache_folder(data: DataConfig, name: str) -> Path:
    return Path(data.cache_dir).expanduser() / name


def caching(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Make `folder`, and turn a failure to write into it into one line that says what to do."""
    return writing(folder, "make room in the cache, or choose another one with --config.data.cache_dir=FOLDER")


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    arrays: dict[str, np.ndarray]  # memory-mapped
    facts: dict[str, Any]


def keep(folder: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Writes a folder of arrays and facts; another process may do so at the same time.

    Raises:
      UserError: the disk is full or may not be written.
    """
    with caching(folder.parent), _beside(folder) as partial:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        checksums = {name: _checksum(partial / f"{name}.npy") for name in arrays}
        kept = {"facts": dict(facts), "checksums": checksums}
        (partial / _FACTS).write_text(json.dumps({**kept, "checksum": _checksum_of_json(kept)}))
        for file in partial.iterdir():
            to_disk(file)
        try:
            os.replace(partial, folder)
        except OSError:  # another process has just put the same there
            if kept_in(folder) is None:
                raise
        with contextlib.suppress(OSError):  # some network file systems cannot do this for folders
            to_disk(folder.parent)


def kept_in(folder: Path) -> Kept | None:
    """What `keep` put into `folder`, every byte of it verified, or None. What is damaged is removed, and that is logged.

    Raises:
      UserError: it is there but may not be read.
    """
    if not folder.exists():
        return None
    try:
        kept = json.loads((folder / _FACTS).read_text())
        if kept.pop("checksum") != _checksum_of_json(kept):
            raise ValueError(f"the checksum of {_FACTS} differs")
        for name, checksum in kept["checksums"].items():
            if _checksum(folder / f"{name}.npy") != checksum:
                raise ValueError(f"the checksum of {name}.npy differs")
        # As plain arrays: a slice of a `memmap` takes several times as long.
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in kept["checksums"]}
        return Kept(arrays, kept["facts"])
    except PermissionError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from error
    except (FileNotFoundError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("what is kept in %s is damaged (%s): it is made again", folder, error)
        with caching(folder.parent), _beside(folder) as aside, contextlib.suppress(FileNotFoundError):
            os.replace(folder, aside / folder.name)  # not there: another process was first
        return None


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder of a name that no other process has, on the same disk; it is gone afterwards, and so are abandoned ones."""
    for partial in folder.parent.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _checksum(file: Path) -> int:
    """CRC-32: it notices every flipped bit, and every run of up to 32 of them, at 2 GB/s."""
    checksum = 0
    with file.open("rb") as content:
        while block := content.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _checksum_of_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
