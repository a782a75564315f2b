"""What problems are made of: symbols, and text to hide things in."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np


class Words(Protocol):
    """What a task needs of a tokenizer."""

    @property
    def name(self) -> str: ...
    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def byte_lengths(self) -> Any: ...
    def encode(self, text: str) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """Of one split, whose text is read when a task first asks for it.

    Problems to train on and problems to measure with share neither text nor keys.
    """

    split: str
    tokenizer: Words
    read: Callable[[], Iterable[str]]  # the text of every document of the split

    @functools.cached_property
    def symbols(self) -> np.ndarray:
        """Ids that stand for text, int32 [K], in a fixed order: printable ASCII that is one token, then all others."""
        characters = [self.tokenizer.encode(chr(code)) for code in (*range(97, 123), *range(33, 97), *range(123, 127))]
        first = [int(ids[0]) for ids in characters if len(ids) == 1]
        return np.array(
            [*first, *sorted(set(np.flatnonzero(self.tokenizer.byte_lengths).tolist()) - set(first))], np.int32
        )

    def spelled(self, text: str) -> np.ndarray:
        """The ids of a text's characters, one by one: as many for every text of a length, whatever is a word."""
        return np.concatenate([self.tokenizer.encode(character) for character in text])

    @functools.cached_property
    def texts(self) -> tuple[np.ndarray, ...]:
        """The tokens of every document of the split."""
        return tuple(self.tokenizer.encode(text) for text in self.read())

    @functools.cached_property
    def text_lengths(self) -> np.ndarray:
        return np.array([len(text) for text in self.texts])

    def passage(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """`length` consecutive tokens of one document, every such passage being equally likely."""
        starts = np.maximum(self.text_lengths - length + 1, 0)
        place = int(rng.integers(0, starts.sum()))
        document = int(np.searchsorted(np.cumsum(starts), place, side="right"))
        start = place - int(starts[:document].sum())
        return self.texts[document][start : start + length]

    def owns(self, key: str) -> bool:
        """Whether a key belongs to this split: half of all keys are for training, half for everything else."""
        return (hashlib.sha256(key.encode()).digest()[0] % 2 == 0) == (self.split == "train")
