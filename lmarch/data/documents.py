"""Documents: what every corpus becomes before it is tokenized."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Literal, get_args, overload

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclasses.dataclass(frozen=True)
class Document:
    name: str  # unique in its split, and the same on every machine
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Documents(Sequence[Document]):
    """The documents of one split, in an order that is part of the corpus."""

    corpus: str
    split: Split
    documents: tuple[Document, ...]

    def __len__(self) -> int:
        return len(self.documents)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Document, ...]: ...
    def __getitem__(self, index: int | slice) -> Document | tuple[Document, ...]:
        return self.documents[index]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that stand for every name and every character of text, in order."""
        sha = hashlib.sha256()
        for document in self.documents:
            for part in (document.name.encode(), document.text.encode()):
                sha.update(len(part).to_bytes(8, "little") + part)  # sized: no text can pass for a name
        return sha.hexdigest()[:12]
