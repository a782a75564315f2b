"""Parallel context windows: a text cut into windows that do not see each other, and a task that sees all of them.

A token's *window id* says where it belongs: 0 is the task; w = 1, 2, ... are windows; -w is a token of window w that the
task does not see. Everything here is elementwise on integers or integer arrays, of NumPy or JAX.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.branches import Pairs, array_namespace


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a document is cut: windows of `size` tokens from its start (the last may be shorter), then `task_length`."""

    size: int
    task_length: int
    hide_first: bool = False  # of all windows but the longest, the first token is hidden from the task
    right: bool = False  # a shorter window ends where the longest does, instead of starting there

    def arrange(self, rank: Any, length: Any) -> tuple[Any, Any]:
        """Return window ids and positions of the tokens at `rank` in documents of `length` tokens.

        Each window is at positions 0 .. size-1, the task after the longest of them. A document with room for one window
        only is left as it is.
        """
        xp, in_windows = array_namespace(rank, length), self._length_in_windows(length)
        longest = xp.minimum(in_windows, self.size)
        window, place = rank // self.size, rank % self.size
        hidden = self.hide_first & (place == 0) & (window > 0)
        if self.right:
            rest = in_windows - window * self.size  # tokens of this window and of those after it
            place = place + xp.maximum(longest - rest, 0)
        ids = xp.where(hidden, -(window + 1), window + 1)
        of_task = rank >= in_windows
        return xp.where(of_task, 0, ids), xp.where(of_task, longest + rank - in_windows, place)

    def largest_position(self, length: int) -> int:
        """Return the largest position in a document of `length` tokens."""
        return int(self.span(length, length)) - 1

    def span(self, length: Any, cut: Any) -> Any:
        """Return how many positions a document of `length` tokens spans that is cut as one of `cut` tokens is."""
        in_windows = self._length_in_windows(cut)
        return array_namespace(cut).minimum(in_windows, self.size) + length - in_windows

    def _length_in_windows(self, length: Any) -> Any:
        """Return how many tokens of a document of `length` tokens are in windows, which is all but its task."""
        return array_namespace(length).maximum(length - self.task_length, 0)


def arrange_segments(
    lengths: Sequence[int], task_length: int, *, hide_first: bool = False, right: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return window ids and positions, int32 [T], of windows of any lengths and of the task that follows them.

    Args:
      lengths: tokens of each window.
      task_length: tokens of the task.
      hide_first: as in `Layout`: of all windows but the longest, the task does not see the first token.
      right: as in `Layout`: all windows end at the same position.
    """
    longest, longest_window = max(lengths, default=0), int(np.argmax(lengths)) if lengths else 0
    ids, positions = [], []
    for number, length in enumerate(lengths):
        own = np.full(length, number + 1)
        own[:1] *= -1 if hide_first and number != longest_window else 1
        ids.append(own)
        positions.append(np.arange(length) + (longest - length if right else 0))
    ids.append(np.zeros(task_length, int))
    positions.append(longest + np.arange(task_length))
    return np.concatenate(ids).astype(np.int32), np.concatenate(positions).astype(np.int32)


def sees_window(query: Any, key: Any) -> Any:
    """Return whether a query of one window id may see a key of another."""
    return (abs(query) == abs(key)) | ((query == 0) & (key >= 0))


def may_see_window(low: Pairs, high: Pairs) -> Any:
    """Return False only where no query between `low` and `high` may see a key.

    The window coordinates of both are absolute values of window ids.
    """
    overlap = (low.query_window <= high.key_window) & (low.key_window <= high.query_window)
    return overlap | (low.query_window == 0)
