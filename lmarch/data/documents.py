"""Documents: what every corpus becomes before it is tokenized."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args, overload

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclasses.dataclass(frozen=True)
class Document:
    name: str  # unique in its split, and the same on every machine
    text: str


@dataclasses.dataclass(frozen=True)
class Source(Iterable[Document]):
    """Documents that are read one at a time, anew whenever they are gone through; also those without text."""

    read: Callable[[], Iterator[Document]]
    files: tuple[Path, ...] = ()  # all that decides what is read, besides the config; none: not known
    remarks: tuple[str, ...] = ()  # on what is not among them, for people

    def __iter__(self) -> Iterator[Document]:
        return self.read()


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a pass over all documents of a split finds."""

    fingerprint: str  # twelve hex digits that stand for every name and every character of text, in order
    num_documents: int
    num_empty: int  # documents without text, which are left out


@dataclasses.dataclass(frozen=True, eq=False)
class Documents(Sequence[Document]):
    """The documents of one split that have text, in an order that is part of the corpus.

    To go through them reads one at a time, however many there are. To ask for their number, or for one by its number,
    keeps all of them in memory.
    """

    corpus: str
    split: Split
    source: Iterable[Document]
    files: tuple[Path, ...] = ()  # this and the next as in `Source`
    remarks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Document]:
        return (document for document in self.source if document.text)

    def __len__(self) -> int:
        return len(self._in_memory)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Document, ...]: ...
    def __getitem__(self, index: int | slice) -> Document | tuple[Document, ...]:
        return self._in_memory[index]

    @functools.cached_property
    def _in_memory(self) -> tuple[Document, ...]:
        return tuple(iter(self))

    @property
    def fingerprint(self) -> str:
        return self.contents.fingerprint

    @functools.cached_property
    def contents(self) -> Contents:
        sha, num_documents, num_empty = hashlib.sha256(), 0, 0
        for document in self.source:
            if not document.text:
                num_empty += 1
                continue
            num_documents += 1
            for part in (document.name.encode(), document.text.encode()):
                sha.update(len(part).to_bytes(8, "little") + part)  # sized: no text can pass for a name
        return Contents(sha.hexdigest()[:12], num_documents, num_empty)
