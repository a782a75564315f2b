"""Documents to fixed rows of tokens, packed once and kept on disk.

Documents become `[bos] text [eos]`, one after the other in one stream, which is kept once for a text and a tokenizer. Rows are
cut from it when they are read. For language modelling it is cut every `length` tokens. A row holds one token more than that:
its last is the first of the next row, so every token but the very first is a target once. For a denoising objective, which
makes more tokens of a text than it has, a row holds as much text as is sure to fit the `Budget` afterwards; no token is left
out or used twice.
"""

import bisect
import dataclasses
import itertools
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from lmarch.config import DataConfig, digest
from lmarch.data.corpora import load_documents
from lmarch.data.corpus_mixtures import Ingredient, ingredients_of, rows_of_each
from lmarch.data.documents import Contents, Split
from lmarch.data.kept_folders import Kept, cache_folder, keep, kept_in
from lmarch.data.remembered import contents_of, state_of
from lmarch.data.rows import Cuts, Even, Given, Rows, cut_rows, mixed_rows
from lmarch.data.stream import Stream, fingerprint_of_stream, kept_stream, pack_stream
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.objectives import Objective
from lmarch.registry import describe, format_variant

RULES = 1  # by which text becomes rows; part of their fingerprint


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
    ingredients = ingredients_of(data.corpus)
    if ingredients:
        parts = [pack(one, split, length, tokenizer, budget) for one in _each(data)]
        return _packed_mixture(data, split, ingredients, parts)
    documents = load_documents(data, split)
    state = state_of(documents)
    contents = contents_of(data, documents)
    fingerprint = _of_text(contents, split, length, tokenizer, budget)
    rows = kept_rows(data, fingerprint)
    if rows is None:
        name = fingerprint_of_stream(contents.fingerprint, tokenizer)
        stream = pack_stream(data, documents, name, tokenizer, unchanged=lambda: state_of(documents) == state)
        folder = cache_folder(data, "packed") / fingerprint
        arrays = {} if budget is None else {"places": _places(stream, budget)}
        keep(folder, arrays, {"stream": name, "length": length, "pad": tokenizer.pad})
        kept = kept_in(folder)
        assert kept is not None
        rows = _rows(fingerprint, kept, stream)
    remarks = list(documents.remarks)
    if contents.num_empty:
        remarks.append(f"{contents.num_empty:,} {split} documents without text are left out")
    return dataclasses.replace(rows, remarks=tuple(f"{data.corpus}: {remark}" for remark in remarks))


def fingerprint_of(
    data: DataConfig, split: Split, length: int, tokenizer: Tokenizer, budget: Budget | None = None
) -> str:
    """What packed rows of today's text are found by; see `pack`."""
    ingredients = ingredients_of(data.corpus)
    if ingredients:
        return _of_mixture(ingredients, [fingerprint_of(one, split, length, tokenizer, budget) for one in _each(data)])
    return _of_text(contents_of(data, load_documents(data, split)), split, length, tokenizer, budget)


def kept_rows(data: DataConfig, fingerprint: str) -> Rows | None:
    """Rows that were packed before, without remarks, if all of them are still in the cache and none is damaged."""
    kept = kept_in(cache_folder(data, "packed") / fingerprint)
    if kept is None:
        return None
    if "mixture" in kept.facts:
        ingredients = [Ingredient(*one) for one in kept.facts["mixture"]]
        parts = [kept_rows(data, part) for part in kept.facts["parts"]]
        return _mixed(fingerprint, ingredients, [part for part in parts if part]) if all(parts) else None
    stream = kept_stream(data, kept.facts["stream"])
    return None if stream is None else _rows(fingerprint, kept, stream)


def _of_text(contents: Contents, split: Split, length: int, tokenizer: Tokenizer, budget: Budget | None) -> str:
    shape = length if budget is None else [format_variant(describe(budget.objective)), *budget.limits]
    return digest([RULES, contents.fingerprint, split, tokenizer.fingerprint, shape])


def _rows(fingerprint: str, kept: Kept, stream: Stream) -> Rows:
    """Rows of a stream by what is kept about them."""
    places = kept.arrays.get("places")
    cuts: Cuts = Even(kept.facts["length"], stream.num_tokens) if places is None else Given(places)
    return Rows(
        cut_rows(cuts, stream.tokens, stream.dtype, kept.facts["pad"]),
        cut_rows(cuts, stream.documents, np.dtype(np.int32), -1),
        fingerprint,
        stream.num_documents,
        stream.num_tokens,
        streams=(stream,),
    )


def _places(stream: Stream, budget: Budget) -> np.ndarray:
    """int64 [N + 1]: where rows begin, and the end; each holds as much of the stream as is sure to fit."""
    nothing = (0,) * len(budget.limits)
    places, used, place = array("q", [0]), nothing, 0
    for end in itertools.chain.from_iterable(ends.tolist() for ends in stream.ends()):
        while place < end:
            left = end - place
            piece = budget.longest_piece(used, left)
            piece -= left - piece == 1  # a single token left over would have nothing to say
            if piece < 2:
                if used == nothing:
                    raise UserError(
                        f"rows for {format_variant(describe(budget.objective))} have room for {budget.limits} tokens, which "
                        "no text fits: raise config.data.row_length (or target_length)"
                    )
                places.append(place)
                used = nothing
            else:
                used = tuple(u + n for u, n in zip(used, budget.need(piece), strict=True))
                place += piece
    places.append(stream.num_tokens)
    return np.array(places, np.int64)


def _each(data: DataConfig) -> Iterator[DataConfig]:
    """The config of each corpus of a mixture."""
    return (dataclasses.replace(data, corpus=one.corpus) for one in ingredients_of(data.corpus))


def _of_mixture(ingredients: Sequence[Ingredient], parts: Sequence[str]) -> str:
    return digest([RULES, [(one.share, part) for one, part in zip(ingredients, parts, strict=True)]])


def _packed_mixture(data: DataConfig, split: Split, ingredients: Sequence[Ingredient], parts: Sequence[Rows]) -> Rows:
    fingerprints = [part.fingerprint for part in parts]
    fingerprint = _of_mixture(ingredients, fingerprints)
    folder = cache_folder(data, "packed") / fingerprint
    if kept_in(folder) is None:
        keep(folder, {}, {"mixture": ingredients, "parts": fingerprints})
    counts = _counts(ingredients, parts)
    times = [
        f"{one.corpus} {count / len(part.tokens):,.1f}×"
        for one, part, count in zip(ingredients, parts, counts, strict=True)
    ]
    remarks = [remark for part in parts for remark in part.remarks]
    remarks.append(f"an epoch of {split} text goes through {', '.join(times)}")
    return dataclasses.replace(_mixed(fingerprint, ingredients, parts), remarks=tuple(remarks))


def _counts(ingredients: Sequence[Ingredient], parts: Sequence[Rows]) -> list[int]:
    return rows_of_each([len(part.tokens) for part in parts], [one.share for one in ingredients])


def _mixed(fingerprint: str, ingredients: Sequence[Ingredient], parts: Sequence[Rows]) -> Rows:
    counts = _counts(ingredients, parts)
    offsets = np.cumsum([0, *(part.num_documents for part in parts[:-1])]).tolist()
    return Rows(
        mixed_rows([part.tokens for part in parts], counts, [0] * len(parts)),
        mixed_rows([part.documents for part in parts], counts, offsets),
        fingerprint,
        sum(part.num_documents for part in parts),
        sum(part.num_tokens for part in parts),
        streams=tuple(stream for part in parts for stream in part.streams),
    )
