"""How much is measured: the suites, and the parts they are made of."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lmarch.evaluation import (
    attention_statistics,
    by_position,
    exact_crop,
    far_copies,
    paired,
    perplexity,
    problems,
    repeated,
)
from lmarch.evaluation.session import Session, Size


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of measurement: what it is, and a function from a session to result rows."""

    meaning: str
    rows: Callable[[Session], list[dict[str, Any]]]
    needs: str | None = None  # an architecture, if it is defined for one only


PARTS: Mapping[str, Part] = {
    "paired": Part("bits per byte of the same targets at every length, with the crop control", paired.rows),
    "exact_crop": Part(
        "the crop control with exactly a trained length before each target", exact_crop.rows, "causal_decoder"
    ),
    "far_copies": Part("the same, of targets last seen beyond the trained length", far_copies.rows),
    "by_position": Part("loss by position in the longest window", by_position.rows, "causal_decoder"),
    "perplexity": Part("perplexity as the literature takes it", perplexity.rows, "causal_decoder"),
    "repeated": Part("next-token accuracy on text that repeats itself", repeated.rows),
    "problems": Part("exact match on synthetic tasks", problems.rows),
    "attention": Part("what heads attend to", attention_statistics.rows, "causal_decoder"),
}


@dataclasses.dataclass(frozen=True)
class Suite:
    size: Size
    parts: tuple[str, ...]


SUITES: Mapping[str, Suite] = {
    "smoke": Suite(Size(windows=64, long_windows=16, problems=40), ("paired", "problems")),
    "cpu": Suite(
        Size(windows=256, long_windows=64, problems=200),
        ("paired", "exact_crop", "far_copies", "by_position", "repeated", "problems", "attention"),
    ),
    "full": Suite(Size(windows=1000, long_windows=256, problems=1000), tuple(PARTS)),
}
