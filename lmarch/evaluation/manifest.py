"""The manifest: which target tokens are scored. Fixed once, shared by every method, length and model compared.

A window of length W feeds the W tokens before its last target and scores the last S predictions, so the targets are the
same bytes whatever W is; only how far back the model may look changes. Windows never cross a document and, starting
inside one, carry no bos token.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.data.documents import Documents, Split
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.evaluation.items import Items


@dataclasses.dataclass(frozen=True)
class Window:
    """`targets` tokens of document `document` from token `first` on; `num_bytes` bytes from byte `first_byte` on."""

    document: int
    first: int
    first_byte: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    corpus: str
    split: Split
    corpus_fingerprint: str
    tokenizer_fingerprint: str
    longest: int  # the window every target has room for
    targets: int  # S, scored tokens a window
    seed: int
    num_documents: int  # of the split, long enough or not
    windows: tuple[Window, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def document_ids(self) -> np.ndarray:
        """The documents that have windows, ascending."""
        return np.unique([window.document for window in self.windows])

    def items(self, tokens: Sequence[np.ndarray], length: int, byte_lengths: np.ndarray, given: int | None) -> Items:
        """The windows, read from `length` tokens before the end of their targets on.

        Args:
          tokens: of every document.
          byte_lengths: [V], of the tokenizer's ids.
          given: see `axes`; none for a causal decoder.
        """
        ends = [(tokens[w.document], w.first + self.targets) for w in self.windows]
        rows_NT = np.stack([document[end - length - 1 : end] for document, end in ends]).astype(np.int32)
        bytes_NS = byte_lengths[rows_NT[:, -self.targets :]]
        documents = np.array([window.document for window in self.windows])
        source = {"corpus": self.corpus, "split": self.split, "bos": "never", "manifest_sha": self.sha256}
        return Items(rows_NT, bytes_NS, np.ones_like(bytes_NS, bool), documents, given, self.seed, source)


def make_manifest(
    documents: Documents,
    tokenizer: Tokenizer,
    *,
    longest: int,
    shortest: int,
    targets: int,
    num_windows: int,
    seed: int,
) -> tuple[Manifest, list[np.ndarray]]:
    """Draws about `num_windows` windows, spread evenly over the documents that are long enough for the longest length.

    Of more documents than that, as many are drawn as there are to be windows, each with one.

    Returns:
      The manifest, and the tokens of every document.

    Raises:
      UserError: no document is long enough for the longest length (says how many are for shorter ones), or
        more targets than the shortest length holds.
    """
    if targets > shortest:
        raise UserError(f"config.eval.targets={targets} is more than the shortest length {shortest} can score")
    tokens = [tokenizer.encode(document.text) for document in documents]
    eligible = [d for d, t in enumerate(tokens) if len(t) > longest]
    if not eligible:
        halves = sorted(longest // 2**n for n in range(5) if longest // 2**n >= shortest)
        counts = ", ".join(f"{sum(len(t) > length for t in tokens)} for {length}" for length in halves)
        raise UserError(
            f"0 of {len(tokens)} {documents.split} documents of {documents.corpus!r} have more than {longest} tokens "
            f"(the longest has {max(map(len, tokens))}); long enough are: {counts}; choose shorter --lengths"
        )
    # By the hash of their names: of a corpus that grows, most of them stay the same.
    eligible = sorted(sorted(eligible, key=lambda d: _seed(seed, documents[d].name))[:num_windows])
    draws = {d: _starts(len(tokens[d]), longest, targets, seed, documents[d].name) for d in eligible}
    chosen: list[tuple[int, int]] = []
    for round_ in range(max(map(len, draws.values()))):
        if len(chosen) >= num_windows:
            break
        chosen += [(d, starts[round_]) for d, starts in draws.items() if round_ < len(starts)]
    windows = []
    for d, first in sorted(chosen):
        sizes = tokenizer.byte_lengths[tokens[d]]
        span = slice(first, first + targets)
        windows.append(Window(d, first, int(sizes[:first].sum()), int(sizes[span].sum())))
    made = Manifest(
        documents.corpus,
        documents.split,
        documents.fingerprint,
        tokenizer.fingerprint,
        longest,
        targets,
        seed,
        len(documents),
        tuple(windows),
    )
    return made, tokens


def _starts(length: int, longest: int, targets: int, seed: int, name: str) -> list[int]:
    """First targets of one document's windows, in the order they are used: disjoint blocks at a random offset.

    Drawn from the document's name, so that they do not depend on which other documents there are.
    """
    random = np.random.default_rng(_seed(seed, name))
    earliest = longest + 1 - targets  # the window of `longest` inputs starts one token before its first prediction
    room = length - targets - earliest
    offset = int(random.integers(0, min(targets, room + 1)))
    blocks = np.arange(earliest + offset, length - targets + 1, targets)
    return [int(first) for first in random.permutation(blocks)]


def _seed(seed: int, name: str) -> int:
    """What a document's draws are seeded with."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
