"""`text:GLOB`: the user's own files, read as they are, one document a file."""

from collections.abc import Iterator
from pathlib import Path

from lmarch.config import DataConfig
from lmarch.data.documents import SPLITS, Document, Source, Split
from lmarch.data.files import decoded, find, reading
from lmarch.data.parts import TEST, VALIDATION, part_of, place

FEWEST_TO_DEAL = 20  # files; of fewer, many a split would be a single one


def read_text_files(data: DataConfig, pattern: str, split: Split) -> Source:
    """The documents of one split of the files that match `pattern`; compressed ones (`.gz`, `.zst`) are decompressed.

    From 20 files on each file is in one split, by the hash of its name; see `_dealt`. Of fewer files each gives its first
    90 % to training, the next 5 % to validation and the last 5 % to testing. `data.splits` deals any number by hash.

    Raises:
      UserError: nothing matches, all files are empty; when they are read: a file cannot be, or is not UTF-8 text.
    """
    files = find("text", pattern, data.folder)
    if data.splits is not None:
        part = part_of(data, split)
        whole = {name: path for name, path in files.items() if part.holds(name)}
    elif len(files) >= FEWEST_TO_DEAL:
        chosen = _dealt(list(files))[split]
        whole = {name: path for name, path in files.items() if name in chosen}
    else:
        return Source(lambda: _parts(files, split), tuple(files.values()))
    return Source(lambda: (Document(name, _read(path)) for name, path in whole.items()), tuple(whole.values()))


def _parts(files: dict[str, Path], split: Split) -> Iterator[Document]:
    """A split's part of every file; of a file without text that is nothing, of a short one there may be none."""
    for name, path in files.items():
        text = _read(path)
        part = _part(text, split)
        if part or not text:
            yield Document(name, part)


def _read(path: Path) -> str:
    with reading(path) as file:
        content = file.read()
    return decoded(path, content)


def _dealt(names: list[str]) -> dict[Split, set[str]]:
    """The names of each split: by where their hashes fall, and the lowest ones where none falls low enough.

    A name that is for training stays so when others join it: what is held out has lower hashes than all that is trained
    on, and where a new name takes the place of another, that one goes to training.
    """
    ordered = sorted(names, key=place)
    test = max(1, sum(place(name) < TEST for name in names))
    held_out = max(test + 1, sum(place(name) < VALIDATION for name in names))
    return dict(zip(SPLITS, map(set, (ordered[held_out:], ordered[test:held_out], ordered[:test])), strict=True))


def _part(text: str, split: Split) -> str:
    first, second = (_cut(text, percent) for percent in (90, 95))
    return {"train": text[:first], "validation": text[first:second], "test": text[second:]}[split]


def _cut(text: str, percent: int) -> int:
    """Where to cut: after the last line break in the 2 % before `percent`, else in the middle of a line."""
    wanted = len(text) * percent // 100
    return text.rfind("\n", wanted - len(text) // 50, wanted) + 1 or wanted
