"""Does training text stand in what is measured with? The share of 13-word runs of the test documents that training saw.

Runs of 13 words are what Brown et al. 2020 (arXiv 2005.14165, appendix C) look for. Words are what white space separates, so
the number does not depend on a tokenizer.
"""

from collections.abc import Sequence

import numpy as np

from lmarch.data.documents import Document

RUN = 13
MOST = 0.01  # above this share, results are flagged
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing


def overlap(trained: Sequence[Document], tested: Sequence[Document]) -> float:
    """In [0, 1]; 0 where the tested documents have no 13 words in a row."""
    numbers: dict[str, int] = {}
    seen = np.sort(np.concatenate([_runs(document, numbers) for document in trained]))
    asked = np.concatenate([_runs(document, numbers) for document in tested])
    # Much faster than np.isin, which sorts both together.
    places = np.searchsorted(seen, asked, side="right") - np.searchsorted(seen, asked, side="left")
    return float((places > 0).mean()) if asked.size else 0.0


def _runs(document: Document, numbers: dict[str, int]) -> np.ndarray:
    """A 64-bit hash of every run of a document, uint64."""
    words = np.array([numbers.setdefault(word, len(numbers)) for word in document.text.split()], np.uint64)
    hashed = np.zeros(max(0, len(words) - RUN + 1), np.uint64)
    for place in range(RUN):
        hashed = hashed * _FACTOR + words[place : place + len(hashed)]
        hashed ^= hashed >> np.uint64(29)
    return hashed
