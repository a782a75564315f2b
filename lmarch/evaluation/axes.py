"""Along which side a context grows, where one part of it is given and the other continues it.

A window of W tokens reads W + 1 tokens of text and scores the last S. A prefix decoder sees the given part both ways, an
encoder-decoder encodes it; a causal decoder makes no difference. So all three read the same text and score the same
targets, and losses along one axis can be compared between them.
"""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Axis:
    title: str
    meaning: str  # for reports
    given: Callable[[int, int], int]  # (W, trained length L) -> tokens wanted of the given part


AXES = {
    "prefix": Axis(
        "the prefix grows",
        "All but the targets is given: the prefix, or the encoder's text, grows.",
        lambda length, trained: length,
    ),
    "continuation": Axis(
        "the continuation grows",
        "Half a trained length is given: what continues it, or the decoder's text, grows.",
        lambda length, trained: trained // 2,
    ),
    "both": Axis("both grow", "Half of the window is given, half continues it.", lambda length, trained: length // 2),
}


def given_tokens(axis: str, length: int, targets: int, trained_length: int) -> int:
    """How many of the W + 1 tokens are given: what the axis wants, but never a target and at least one."""
    return max(1, min(AXES[axis].given(length, trained_length), length + 1 - targets))
