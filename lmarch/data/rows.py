"""Rows of tokens: cut from streams when they are read, so that they take no room of their own."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from lmarch.data.stream import Stream


class Cuts(Protocol):
    """Where the rows of a stream begin and end."""

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> tuple[int, int]: ...


@dataclasses.dataclass(frozen=True)
class Even:
    """As few rows of `length` tokens, and the first of the next row, as make every token but the first a target."""

    length: int
    num_tokens: int

    @property
    def width(self) -> int:
        return self.length + 1

    def __len__(self) -> int:
        return -(-(self.num_tokens - 1) // self.length)

    def __getitem__(self, number: int) -> tuple[int, int]:
        start = number * self.length
        return start, min(start + self.width, self.num_tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Rows from each of `places` to the next."""

    places: np.ndarray  # int64 [N + 1]

    @functools.cached_property
    def width(self) -> int:
        return int(np.diff(self.places).max())

    def __len__(self) -> int:
        return len(self.places) - 1

    def __getitem__(self, number: int) -> tuple[int, int]:
        return int(self.places[number]), int(self.places[number + 1])


@dataclasses.dataclass(frozen=True, eq=False)
class RowArray:
    """An array [N, W] whose rows are made when they are asked for: `rows[3]`, `rows[[5, 0]]`, `rows[:8]`, `rows[-1, 0]`."""

    shape: tuple[int, int]
    dtype: np.dtype
    padding: int  # what rows shorter than W end in
    row: Callable[[int], np.ndarray]  # by its number, without padding

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            rows, *columns = index
            made = self[rows]
            return made[(*[slice(None)] * (made.ndim - 1), *columns)]
        if isinstance(index, (int, np.integer)):
            return self._made([int(index)])[0]
        if isinstance(index, slice):
            return self._made(range(len(self))[index])
        numbers = np.asarray(index)
        assert numbers.dtype != bool, "rows are chosen by number; for a mask take rows[:] first"
        return self._made(numbers.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _made(self, numbers: Sequence[int]) -> np.ndarray:
        made = np.full((len(numbers), self.shape[1]), self.padding, self.dtype)
        known = range(len(self))
        for place, number in enumerate(numbers):
            row = self.row(known[number])
            made[place, : len(row)] = row
        return made


def cut_rows(cuts: Cuts, read: Callable[[int, int], np.ndarray], dtype: np.dtype, padding: int) -> RowArray:
    """The rows of a stream.

    Args:
      read: what there is from one token to another.
    """
    return RowArray((len(cuts), cuts.width), dtype, padding, lambda number: read(*cuts[number]))


def mixed_rows(parts: Sequence[RowArray], counts: Sequence[int], offsets: Sequence[int]) -> RowArray:
    """The rows of several arrays, one after the other.

    Args:
      counts: how many of each there are; an array that has fewer begins again.
      offsets: what is added to the values of each.
    """
    first, ends = parts[0], np.cumsum(counts)

    def row(number: int) -> np.ndarray:
        which = int(np.searchsorted(ends, number, side="right"))
        part, place = parts[which], number - int(ends[which]) + counts[which]
        return part.row(place % len(part)) + part.dtype.type(offsets[which])

    return RowArray((int(ends[-1]), max(part.shape[1] for part in parts)), first.dtype, first.padding, row)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """N rows of W tokens; in language modelling W = length + 1."""

    tokens: RowArray  # [N, W], uint16 if the vocabulary fits, else uint32; rows end in `pad`
    documents: RowArray  # int32 [N, W]: the number of the document each token is from; -1 where padded
    fingerprint: str
    num_documents: int
    num_tokens: int  # with bos and eos, without padding
    remarks: tuple[str, ...] = ()  # on what the text is, for people
    streams: tuple[Stream, ...] = ()  # what they are cut from
