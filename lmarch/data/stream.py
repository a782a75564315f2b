"""All tokens of a split, `[bos] text [eos]` after `[bos] text [eos]`, in shards on disk.

A shard holds as many tokens of the stream as all others do, but for the last, and where in it documents start. Each is
written whole or not at all, with checksums that are verified before it is read. So a packing that was killed goes on
after its last shard, and a shard that is damaged is made again alone.
"""

import array
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lmarch.config import DataConfig, digest
from lmarch.data.documents import Documents
from lmarch.data.kept_folders import cache_folder, keep, kept_in
from lmarch.data.tokenizers import Tokenizer
from lmarch.data.tokenizing import dtype_of, tokenized
from lmarch.errors import UserError

LAYOUT = 1  # of the files, and part of their folder's name
SHARD = 2**25  # tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    tokens: np.ndarray  # uint16 [n] if the vocabulary fits, else uint32
    starts: np.ndarray  # uint32: the places in this shard at which documents start
    last: bool

    def __reduce__(self) -> tuple:
        """Another process maps the same files, instead of being sent what is in them."""
        files = [array.base.filename for array in (self.tokens, self.starts) if isinstance(array.base, np.memmap)]
        return (_mapped, (*files, self.last)) if len(files) == 2 else (Shard, (self.tokens, self.starts, self.last))


def _mapped(tokens: str, starts: str, last: bool) -> Shard:
    return Shard(np.asarray(np.load(tokens, mmap_mode="r")), np.asarray(np.load(starts, mmap_mode="r")), last)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """The tokens of documents, memory-mapped."""

    shards: Sequence[Shard]
    size: int  # of every shard but the last

    @functools.cached_property
    def _before(self) -> np.ndarray:
        """int64 [shards + 1]: the documents that start before each shard, and all of them."""
        return np.cumsum([0, *(len(shard.starts) for shard in self.shards)])

    @property
    def num_tokens(self) -> int:
        return self.size * (len(self.shards) - 1) + len(self.shards[-1].tokens)

    @property
    def num_documents(self) -> int:
        return int(self._before[-1])

    @property
    def dtype(self) -> np.dtype:
        return self.shards[0].tokens.dtype

    def tokens(self, start: int, end: int) -> np.ndarray:
        """[end - start], of the stream from token `start` on."""
        return _joined([self.shards[n].tokens[a:b] for n, a, b in self._pieces(start, end)])

    def documents(self, start: int, end: int) -> np.ndarray:
        """int32 [end - start]: the number of the document that each of these tokens is of."""
        return _joined([self._documents(*piece) for piece in self._pieces(start, end)])

    def ends(self) -> Iterator[np.ndarray]:
        """Where documents end, shard by shard, counted from the beginning of the stream."""
        for number, shard in enumerate(self.shards):
            starts = shard.starts.astype(np.int64) + number * self.size
            yield starts[number == 0 :]  # a document ends where the next one starts
        yield np.array([self.num_tokens])

    def __iter__(self) -> Iterator[np.ndarray]:
        """The tokens of each document."""
        start = 0
        for ends in self.ends():
            for end in ends.tolist():
                yield self.tokens(start, end)
                start = end

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The number of each shard that has some of these tokens, and from where to where it has them."""
        while start < end:
            number, place = divmod(start, self.size)
            until = min(self.size, place + end - start)
            yield number, place, until
            start += until - place

    def _documents(self, number: int, start: int, end: int) -> np.ndarray:
        starts = self.shards[number].starts
        first, last = starts.searchsorted(np.array([start, end - 1], starts.dtype), side="right").tolist()
        before = int(self._before[number])
        if first == last:
            return np.full(end - start, before + first - 1, np.int32)
        owners = np.arange(before + first - 1, before + last, dtype=np.int32)
        return np.repeat(owners, np.diff([start, *starts[first:last].tolist(), end]))


def fingerprint_of_stream(contents_fingerprint: str, tokenizer: Tokenizer) -> str:
    return digest([LAYOUT, SHARD, contents_fingerprint, tokenizer.fingerprint])


def kept_stream(data: DataConfig, fingerprint: str) -> Stream | None:
    """One that was packed before, verified; None: it is not all there, or part of it is damaged."""
    shards = _verified(cache_folder(data, "streams") / fingerprint)
    whole = [shards[number] for number in range(len(shards)) if number in shards]
    return Stream(whole, SHARD) if whole and whole[-1].last and len(whole) == len(shards) else None


def pack_stream(
    data: DataConfig,
    documents: Documents,
    fingerprint: str,
    tokenizer: Tokenizer,
    unchanged: Callable[[], bool] = lambda: True,
) -> Stream:
    """The stream of `documents`, of which only those shards are made that are not there.

    Args:
      unchanged: whether the text is still the one that the fingerprint is of, asked before a shard is kept.

    Raises:
      UserError: text that cannot be read, that the tokenizer loses or that changes, a full or read-only cache disk.
    """
    folder = cache_folder(data, "streams") / fingerprint
    shards: list[Shard] = []
    there, making = _verified(folder), None
    for number in itertools.count():
        shard = there.get(number)
        if shard is None:
            making = making or _made(data, documents, tokenizer, shards)
            made = next(making)
            if not unchanged():
                raise UserError(
                    f"{documents.corpus!r} was changed while it was packed: start again when it is complete"
                )
            keep(_folder(folder, number), {"tokens": made.tokens, "starts": made.starts}, {"last": made.last})
            shard = _kept(_folder(folder, number))
            assert shard is not None
        elif making is not None:
            making.close()
            making = None
        shards.append(shard)
        if shard.last:
            return Stream(shards, SHARD)
    raise AssertionError


def _made(
    data: DataConfig, documents: Documents, tokenizer: Tokenizer, before: Sequence[Shard]
) -> Generator[Shard, None, None]:
    """The shards after those `before`; what they hold is overwritten when the next is asked for."""
    done = len(before) * SHARD
    first, skipped = _document_at(before, done)
    rest = itertools.islice(documents, first, None)
    pieces = tokenized(rest, tokenizer, data.pack_processes)
    if before:
        yield from _cut(itertools.chain([next(pieces)[skipped:]], pieces), dtype_of(tokenizer), within=True)
    else:
        yield from _cut(pieces, dtype_of(tokenizer), within=False)


def _document_at(before: Sequence[Shard], done: int) -> tuple[int, int]:
    """The last document that starts in these shards, and how many of its tokens they hold."""
    for number in reversed(range(len(before))):
        if len(before[number].starts):
            starts = sum(len(shard.starts) for shard in before)
            return starts - 1, done - (number * SHARD + int(before[number].starts[-1]))
    return 0, 0


def _cut(pieces: Iterable[np.ndarray], dtype: type[np.unsignedinteger], *, within: bool) -> Iterator[Shard]:
    """The tokens of documents in shards.

    Args:
      within: the first piece goes on with a document that has started in an earlier shard.
    """
    buffer, filled, starts = np.empty(SHARD, dtype), 0, array.array("I")
    for number, piece in enumerate(pieces):
        rest, starting = piece, number > 0 or not within
        while len(rest):
            if filled == SHARD:
                yield Shard(buffer, np.array(starts, np.uint32), last=False)
                filled, starts = 0, array.array("I")
            if starting:
                starts.append(filled)
                starting = False
            size = min(SHARD - filled, len(rest))
            buffer[filled : filled + size] = rest[:size]
            filled, rest = filled + size, rest[size:]
    yield Shard(buffer[:filled], np.array(starts, np.uint32), last=True)


def _verified(folder: Path) -> dict[int, Shard]:
    """The good shards that are there, by number; the damaged ones are gone."""
    numbers = sorted(int(path.name) for path in folder.glob("[0-9]*"))
    with ThreadPoolExecutor() as pool:  # checksums are computed without Python's lock
        shards = pool.map(_kept, [_folder(folder, number) for number in numbers])
        return {number: shard for number, shard in zip(numbers, shards, strict=True) if shard is not None}


def _kept(folder: Path) -> Shard | None:
    kept = kept_in(folder)
    return None if kept is None else Shard(kept.arrays["tokens"], kept.arrays["starts"], kept.facts["last"])


def _folder(folder: Path, number: int) -> Path:
    return folder / f"{number:06}"


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
