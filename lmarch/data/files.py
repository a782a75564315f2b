"""Files by a glob: their names, what is in them, and what to do about those that hold something else than text."""

import contextlib
import glob
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from lmarch.errors import UserError

# How files of other formats begin: what they are, and what can be done. The longer of two beginnings comes first.
_OTHERS = (
    (b"\x1f\x8b", "gzip", "name it {file}.gz, and it is read as it is"),
    (b"\x28\xb5\x2f\xfd", "zstd", "name it {file}.zst, and it is read as it is"),
    (b"PK\x03\x04", "a zip archive", "unpack it: unzip {file}"),
    (b"BZh", "bzip2", "unpack it: bunzip2 {file}"),
    (b"\xfd7zXZ\x00", "xz", "unpack it: unxz {file}"),
    (b"PAR1", "Parquet", "read it with config.data.corpus=parquet:{file}#COLUMN"),
    (b"ARROW1", "Arrow", "a data set saved on disk is read with config.data.corpus=hf:FOLDER#COLUMN"),
    (b"%PDF", "PDF", "extract its text: pdftotext {file}"),
    (b"\xff\xfe\x00\x00", "UTF-32", "convert it: iconv -f utf-32 -t utf-8 {file}"),
    (b"\x00\x00\xfe\xff", "UTF-32", "convert it: iconv -f utf-32 -t utf-8 {file}"),
    (b"\xff\xfe", "UTF-16", "convert it: iconv -f utf-16 -t utf-8 {file}"),
    (b"\xfe\xff", "UTF-16", "convert it: iconv -f utf-16 -t utf-8 {file}"),
)


def find(kind: str, pattern: str, folder: str | None) -> dict[str, Path]:
    """The files that match `pattern` (`**` crosses folders), by name, in the order of their names.

    Args:
      folder: that a relative pattern begins at; none: the current one.

    A name is the part of a path that the glob was free to choose: the same wherever the files lie.

    Raises:
      UserError: nothing matches, all of them are empty, two names that would be the same.
    """
    expanded, begin = Path(pattern).expanduser(), Path(folder or "")
    matches = map(Path, glob.glob(str(expanded), root_dir=begin, recursive=True))
    found = {path: begin / path for path in matches if (begin / path).is_file()}
    if not found:
        raise UserError(
            f"no file matches {kind}:{pattern} in {begin.absolute()}; for a folder write {kind}:FOLDER/**/*"
        )
    fixed = next((folder for folder in expanded.parents if not glob.has_magic(str(folder))), Path())
    files = {shown(match.relative_to(fixed)): path for match, path in found.items()}
    if len(files) < len(found):
        raise UserError(
            f"two files of {kind}:{pattern} have names that only differ in how they are encoded: rename one"
        )
    if not any(path.stat().st_size for path in files.values()):
        raise UserError(f"all {len(files):,} files that match {kind}:{pattern} are empty")
    return dict(sorted(files.items()))


def shown(path: Path) -> str:
    r"""A path as text: bytes of it that are not UTF-8 are spelled out, `caf\xe9.txt`."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[io.BufferedReader]:
    """The content of a file, decompressed if its name ends in .gz or .zst.

    Raises:
      UserError: it cannot be read, is damaged, or begins like something else than text.
    """
    try:
        with _opened(path) as file:
            _refuse_others(path, file.peek(8)[:8])
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    with path.open("rb") as file:
        if path.suffix == ".gz":
            with gzip.open(file) as plain:
                yield io.BufferedReader(plain)
        elif path.suffix == ".zst":
            import pyarrow

            with pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd") as plain:
                yield io.BufferedReader(plain)
        else:
            yield file


def _refuse_others(path: Path, head: bytes) -> None:
    for magic, what, advice in _OTHERS:
        if head.startswith(magic):
            file = shown(path)
            raise UserError(f"{file} is {what}, not text: {advice.format(file=file)} (or leave it out of the glob)")


def decoded(path: Path, content: bytes) -> str:
    """The text of a file; UserError that names the first byte that is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(path)} is not UTF-8: byte {content[error.start]:#04x} at offset {error.start}; convert it, for "
            f"example with: iconv -f latin1 -t utf-8 {shown(path)} (or leave it out of the glob)"
        ) from error
    nul = content.find(0)
    if nul >= 0:
        raise UserError(
            f"{shown(path)} has a NUL byte at offset {nul}, which text has not: if it is UTF-16, convert it with: "
            f"iconv -f utf-16le -t utf-8 {shown(path)} (or leave it out of the glob)"
        )
    return text
