"""`text:GLOB`: the user's own files, read as they are, one document a file."""

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path

from lmarch.config import DataConfig
from lmarch.data.documents import Document, Split
from lmarch.errors import UserError

FEWEST_TO_DEAL = 20  # files; with fewer, 5 % of them would be none


def read_files(data: DataConfig, pattern: str, split: Split) -> Iterator[Document]:
    """The documents of one split of the files that match `pattern` (`**` crosses folders).

    From 20 files on each file is in one split: a twentieth of them, drawn by the hash of their names, is for testing
    and another for validation. Of fewer files each gives its first 90 % to training, the next 5 % to validation and
    the last 5 % to testing.

    Raises:
      UserError: nothing matches, a file is empty or not UTF-8.
    """
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    files = {_name(path, pattern): path for path in map(Path, matches) if path.is_file()}
    if not files:
        raise UserError(f"no file matches text:{pattern} in {Path.cwd()}; for a folder write text:FOLDER/**/*.txt")
    documents = [Document(name, _read(path)) for name, path in sorted(files.items())]
    if len(documents) >= FEWEST_TO_DEAL:
        dealt = _deal([document.name for document in documents])
        return (document for document in documents if dealt[document.name] == split)
    parts = (Document(document.name, _part(document.text, split)) for document in documents)
    return (part for part in parts if part.text)


def _name(path: Path, pattern: str) -> str:
    """The part of a path that the glob was free to choose: the same wherever the files lie."""
    expanded = Path(pattern).expanduser()
    fixed = next((folder for folder in expanded.parents if not glob.has_magic(str(folder))), Path())
    return path.relative_to(fixed).as_posix()


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        text = content.decode()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {content[error.start]:#04x} at offset {error.start}; convert it, for example "
            f"with: iconv -f latin1 -t utf-8 {path} (or leave it out of the glob)"
        ) from error
    if not text:
        raise UserError(f"{path} is empty: remove it or leave it out of the glob")
    return text


def _deal(names: list[str]) -> dict[str, Split]:
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    size = len(names) // 20
    dealt: dict[str, Split] = dict.fromkeys(names, "train")
    dealt |= dict.fromkeys(shuffled[:size], "test")
    dealt |= dict.fromkeys(shuffled[size : 2 * size], "validation")
    return dealt


def _part(text: str, split: Split) -> str:
    first, second = (_cut(text, percent) for percent in (90, 95))
    return {"train": text[:first], "validation": text[first:second], "test": text[second:]}[split]


def _cut(text: str, percent: int) -> int:
    """Where to cut: after the last line break in the 2 % before `percent`, else in the middle of a line."""
    wanted = len(text) * percent // 100
    return text.rfind("\n", wanted - len(text) // 50, wanted) + 1 or wanted
