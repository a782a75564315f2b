"""Rows of tokens: cut from streams when they are read, so that they take no room of their own."""

import abc
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


class RowArray(abc.ABC):
    """An array [N, W] of which the rows that are asked for are made: `rows[3]`, `rows[[5, 0]]`, `rows[:8]`, `rows[-1, 0]`."""

    shape: tuple[int, int]
    dtype: np.dtype
    padding: int  # what short rows end in

    @abc.abstractmethod
    def row(self, number: int) -> np.ndarray:
        """[up to W], without padding."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            rows, *columns = index
            made = self[rows]
            return made[(*[slice(None)] * (made.ndim - 1), *columns)]
        if isinstance(index, (int, np.integer)):
            return self._made([int(index)])[0]
        numbers = range(len(self))[index] if isinstance(index, slice) else np.asarray(index).tolist()
        return self._made(numbers)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _made(self, numbers: Sequence[int]) -> np.ndarray:
        made = np.full((len(numbers), self.shape[1]), self.padding, self.dtype)
        known = range(len(self))
        for place, number in enumerate(numbers):
            row = self.row(known[number])
            made[place, : len(row)] = row
        return made


@dataclasses.dataclass(frozen=True, eq=False)
class CutRows(RowArray):
    """Of a stream."""

    cuts: Cuts
    read: Callable[[int, int], np.ndarray]  # of the stream, from token to token
    dtype: np.dtype
    padding: int

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return len(self.cuts), self.cuts.width

    def row(self, number: int) -> np.ndarray:
        return self.read(*self.cuts[number])


@dataclasses.dataclass(frozen=True, eq=False)
class MixedRows(RowArray):
    """Of several arrays: as many of each as its `counts` say, again from its first one where it has fewer."""

    parts: Sequence[RowArray]
    counts: Sequence[int]
    offsets: Sequence[int]  # added to the values of each

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return sum(self.counts), max(part.shape[1] for part in self.parts)

    @property
    def dtype(self) -> np.dtype:  # type: ignore[override]
        return self.parts[0].dtype

    @property
    def padding(self) -> int:  # type: ignore[override]
        return self.parts[0].padding

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.counts)

    def row(self, number: int) -> np.ndarray:
        which = int(np.searchsorted(self._ends, number, side="right"))
        part, place = self.parts[which], number - int(self._ends[which]) + self.counts[which]
        return part.row(place % len(part)) + part.dtype.type(self.offsets[which])


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
