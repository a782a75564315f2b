"""Does training text stand in what is measured with? The share of runs of words of the scored documents that training saw."""

from collections.abc import Iterable

import numpy as np

from lmarch.data.runs_of_words import runs_of_words

MOST = 0.01  # above this share, results are flagged


def overlap(trained: Iterable[str], tested: Iterable[str]) -> float | None:
    """In [0, 1]; None where the tested texts have no run of words, of which nothing can be said."""
    numbers: dict[str, int] = {}
    nothing = np.zeros(0, np.uint64)
    seen = np.sort(np.concatenate([nothing, *runs_of_words(trained, numbers)]))
    asked = np.concatenate([nothing, *runs_of_words(tested, numbers)])
    if not asked.size:
        return None
    # Much faster than np.isin, which sorts both together.
    places = np.searchsorted(seen, asked, side="right") - np.searchsorted(seen, asked, side="left")
    return float((places > 0).mean())
