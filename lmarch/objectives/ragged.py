"""Pieces of different lengths that lie one after the other in one flat array."""

import numpy as np


def starts(lengths_D: np.ndarray) -> np.ndarray:
    """[D]: where each piece begins."""
    return np.cumsum(lengths_D) - lengths_D


def counted(lengths_D: np.ndarray) -> np.ndarray:
    """int32 [sum of lengths]: 0, 1, ... in every piece."""
    first = np.repeat(starts(lengths_D).astype(np.int32), lengths_D)
    return np.arange(len(first), dtype=np.int32) - first


def sums(values: np.ndarray, lengths_D: np.ndarray) -> np.ndarray:
    """[D]: the sum of integers [sum of lengths] over each piece, which may be empty."""
    before = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(lengths_D)
    return before[ends] - before[ends - lengths_D]
