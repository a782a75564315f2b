"""The folder for what can be made again: prepared corpora and packed rows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lmarch.config import DataConfig
from lmarch.errors import UserError


def cache_folder(data: DataConfig, name: str) -> Path:
    return Path(data.cache_dir).expanduser() / name


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes `folder` and turns a failure to write into it (full disk, no permission) into a UserError that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the cache {folder}: {error.strerror or error}; "
            "make room there, or choose another folder with --config.data.cache_dir=FOLDER"
        ) from error
