"""Documents to fixed rows of tokens, packed once and kept on disk.

Documents become `[bos] text [eos]`, one after the other in one stream. For language modelling it is cut every `length`
tokens. A row holds one token more than that: its last is the first of the next row, so every token but the very first is
a target once. For a denoising objective, which makes more tokens of a text than it has, a row holds as much text as is
sure to fit the `Budget` afterwards; no token is left out or used twice.
"""

import bisect
import dataclasses
import json
import logging
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np

from lmarch.config import DataConfig, digest
from lmarch.data.cache import cache_folder, writing
from lmarch.data.corpora import load_documents
from lmarch.data.documents import Documents, Split
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.objectives import Objective
from lmarch.registry import describe, format_variant

FORMAT = 1  # of the files; part of the fingerprint, so that another version's rows are never read
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Packed rows, memory-mapped. N rows of W tokens; in language modelling W = length + 1."""

    tokens: np.ndarray  # [N, W], uint16 if the vocabulary fits, else int32; rows end in `pad`
    documents: np.ndarray  # int32 [N, W]: the index of the document each token is from; -1 where padded
    fingerprint: str
    num_documents: int
    num_tokens: int  # with bos and eos, without padding

    def __reduce__(self) -> tuple:
        """Another process maps the same files, instead of being sent what is in them."""
        facts = (self.fingerprint, self.num_documents, self.num_tokens)
        if isinstance(self.tokens, np.memmap) and isinstance(self.documents, np.memmap):
            return _map, (self.tokens.filename, self.documents.filename, facts)
        return Rows, (self.tokens, self.documents, *facts)


@dataclasses.dataclass(frozen=True)
class Budget:
    """The most tokens that the examples of a row may be together: of one stream, or of an encoder and of its decoder."""

    objective: Objective
    limits: tuple[int] | tuple[int, int]

    def need(self, piece: int) -> tuple[int, ...]:
        """What a piece of so many tokens of text may become."""
        return (self.objective.longest(piece),) if len(self.limits) == 1 else tuple(self.objective.largest(piece))

    def longest_piece(self, used: tuple[int, ...], available: int) -> int:
        """The longest piece of up to `available` tokens that still fits; 0: none of two tokens or more."""

        def overflows(piece: int) -> bool:
            try:
                need = self.need(piece)
            except UserError:  # too long for the objective, which matters only where it would fit
                return True
            return any(u + n > limit for u, n, limit in zip(used, need, self.limits, strict=True))

        lengths = range(2, min(available, sum(self.limits)) + 1)
        fitting = bisect.bisect_left(lengths, True, key=overflows)
        if fitting < len(lengths):
            self.need(lengths[fitting])  # raises if it is the objective that stops here
        return 1 + fitting if fitting else 0


def pack(data: DataConfig, split: Split, length: int, tokenizer: Tokenizer, budget: Budget | None = None) -> Rows:
    """The rows of one split, from the cache if the same text was packed before by the same tokenizer.

    Args:
      length: of the rows in language modelling, W = length + 1.
      budget: of a denoising objective, which decides W; `length` is then not used.

    Raises:
      UserError: what `load_documents` raises, text that the tokenizer loses, a full or read-only cache disk.
    """
    assert length > 0
    documents = load_documents(data, split)
    fingerprint = fingerprint_of(documents, length, tokenizer, budget)
    folder = cache_folder(data, "rows") / fingerprint
    rows = _open(folder)
    if rows is None:
        tokens, owners = _stream(documents, tokenizer)
        facts: dict[str, str | int] = {
            "fingerprint": fingerprint,
            "num_documents": len(documents),
            "num_tokens": len(tokens),
        }
        starts = None if budget is None else _starts(owners, budget)
        arrays = {
            name: _cut(stream, length, padding) if starts is None else _cut_at(stream, starts, padding)
            for name, stream, padding in (("tokens", tokens, tokenizer.pad), ("documents", owners, -1))
        }
        with writing(folder.parent):
            _write(folder, arrays, facts)
        rows = _open(folder)
        assert rows is not None
    return rows


def fingerprint_of(documents: Documents, length: int, tokenizer: Tokenizer, budget: Budget | None = None) -> str:
    """What their packed rows are found by; see `pack`."""
    shape = length if budget is None else [format_variant(describe(budget.objective)), *budget.limits]
    return digest([FORMAT, documents.fingerprint, documents.split, tokenizer.fingerprint, shape])


def kept_rows(data: DataConfig, fingerprint: str) -> Rows | None:
    """Rows that were packed before, if they are still in the cache."""
    return _open(cache_folder(data, "rows") / fingerprint)


def _stream(documents: Documents, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """All tokens, and the index of the document of each."""
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    parts = []
    for document in documents:
        ids = tokenizer.encode(document.text)
        if not tokenizer.keeps(document.text, ids):
            raise UserError(
                f"tokenizer {tokenizer.name!r} loses text of document {document.name!r} of {documents.corpus!r}: "
                "its bits per byte would be wrong; train a tokenizer without normalization and with all bytes in reach"
            )
        parts.append(np.concatenate([[tokenizer.bos], ids, [tokenizer.eos]]).astype(dtype))
    owners = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return np.concatenate(parts), owners


def _cut(stream: np.ndarray, length: int, padding: int) -> np.ndarray:
    """[n] -> [N, length + 1] with the least N that makes every token but the first a target."""
    num_rows = -(-(len(stream) - 1) // length)
    padded = np.full(num_rows * length + 1, padding, stream.dtype)
    padded[: len(stream)] = stream
    return np.lib.stride_tricks.sliding_window_view(padded, length + 1)[::length]


def _starts(owners: np.ndarray, budget: Budget) -> np.ndarray:
    """Where rows begin, and the end: each holds as much of the stream as is sure to fit."""
    nothing = (0,) * len(budget.limits)
    starts, used, place = [0], nothing, 0
    for end in np.append(np.flatnonzero(np.diff(owners)) + 1, len(owners)):
        while place < end:
            left = int(end) - place
            piece = budget.longest_piece(used, left)
            piece -= left - piece == 1  # a single token left over would have nothing to say
            if piece < 2:
                if used == nothing:
                    raise UserError(
                        f"rows for {format_variant(describe(budget.objective))} have room for {budget.limits} tokens, which "
                        "no text fits: raise config.data.row_length (or target_length)"
                    )
                starts.append(place)
                used = nothing
            else:
                used = tuple(u + n for u, n in zip(used, budget.need(piece), strict=True))
                place += piece
    return np.array([*starts, len(owners)])


def _cut_at(stream: np.ndarray, starts: np.ndarray, padding: int) -> np.ndarray:
    """[n] -> [N, W], W being the longest row."""
    sizes = np.diff(starts)
    rows = np.full((len(sizes), sizes.max()), padding, stream.dtype)
    rows[np.arange(rows.shape[1]) < sizes[:, None]] = stream
    return rows


def _write(folder: Path, arrays: dict[str, np.ndarray], facts: dict[str, str | int]) -> None:
    """Writes into a temporary folder and renames it, so that `folder` is there whole or not at all."""
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        (partial / "rows.json").write_text(json.dumps({**facts, "checksums": checksums}))
        try:
            os.replace(partial, folder)
        except OSError:  # another process has just put the same rows there
            if _open(folder) is None:
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(folder: Path) -> Rows | None:
    """The rows in `folder`, or None. Damaged ones are removed, and that is logged."""
    if not folder.exists():
        return None
    try:
        facts = json.loads((folder / "rows.json").read_text())
        checksums = facts.pop("checksums")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "documents")}
        if checksums != {name: _checksum(array) for name, array in arrays.items()}:
            raise ValueError("a checksum differs")
        return Rows(**arrays, **facts)
    except PermissionError as error:
        raise UserError(f"packed rows in {folder} cannot be read ({error.strerror})") from error
    except (FileNotFoundError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("packed rows in %s are damaged (%s): packing again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _map(tokens: str, documents: str, facts: tuple[str, int, int]) -> Rows:
    return Rows(np.load(tokens, mmap_mode="r"), np.load(documents, mmap_mode="r"), *facts)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)
