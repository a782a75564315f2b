"""Parallel context windows: a text cut into windows that do not see each other, and a task that sees all of them.

A token's *window id* says where it belongs: 0 is the task; w = 1, 2, ... are windows; -w is a token of window w that the
task does not see. Everything here is elementwise on integers or integer arrays, of NumPy or JAX.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.branches import Pairs


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a document is cut: windows of `size` tokens from its start (the last may be shorter), then `task_length`."""

    size: int
    task_length: int
    hide_first: bool = False  # of all windows but the longest, the first token is hidden from the task
    right: bool = False  # a shorter window ends where the longest does, instead of starting there

    def arrange(self, rank: Any, length: Any) -> tuple[Any, Any]:
        """Window ids and positions of the tokens `rank` of documents of `length` tokens.

        Each window is at positions 0 .. size-1, the task after the longest of them. A document with room for one window
        only is left as it is.
        """
        in_windows = (length - self.task_length) * (length > self.task_length)
        longest = in_windows - (in_windows - self.size) * (in_windows > self.size)
        window, place = rank // self.size, rank % self.size
        hidden = self.hide_first & (place == 0) & (window > 0)
        if self.right:
            rest = in_windows - window * self.size  # tokens of this window and of those after it
            place = place + (longest - rest) * (rest < longest)
        of_task, in_window = rank >= in_windows, rank < in_windows
        ids = (window + 1) * (1 - 2 * hidden) * in_window
        return ids, place * in_window + (longest + rank - in_windows) * of_task

    def largest_position(self, length: int) -> int:
        """Of a document of `length` tokens."""
        return int(self.span(length, length)) - 1

    def span(self, length: Any, cut: Any) -> Any:
        """How many positions a document of `length` tokens spans that is cut as one of `cut` tokens is."""
        in_windows = (cut - self.task_length) * (cut > self.task_length)
        return in_windows - (in_windows - self.size) * (in_windows > self.size) + length - in_windows


def arrange_segments(
    lengths: Sequence[int], task_length: int, *, hide_first: bool = False, right: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Window ids and positions, int32 [T], of windows of any lengths and the task that follows them; see `Layout`."""
    longest, kept = max(lengths, default=0), int(np.argmax(lengths)) if lengths else 0
    ids, positions = [], []
    for number, length in enumerate(lengths):
        own = np.full(length, number + 1)
        own[:1] *= -1 if hide_first and number != kept else 1
        ids.append(own)
        positions.append(np.arange(length) + (longest - length if right else 0))
    ids.append(np.zeros(task_length, int))
    positions.append(longest + np.arange(task_length))
    return np.concatenate(ids).astype(np.int32), np.concatenate(positions).astype(np.int32)


def sees_window(query: Any, key: Any) -> Any:
    """Whether a query of one window id may see a key of another."""
    return (abs(query) == abs(key)) | ((query == 0) & (key >= 0))


def may_see_window(low: Pairs, high: Pairs) -> Any:
    """False only where no query between `low` and `high` may see a key; their window coordinates are absolute values."""
    overlap = (low.query_window <= high.key_window) & (low.key_window <= high.query_window)
    return overlap | (low.query_window == 0)
