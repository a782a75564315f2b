"""What a target is worth: the metrics of scored targets, each a ratio of sums."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lmarch.evaluation.manifest import Window
from lmarch.evaluation.scoring import Scores


@dataclasses.dataclass(frozen=True)
class Metric:
    unit: str
    higher_is_better: bool
    totals: Callable[[Scores], np.ndarray]  # of each target, a row per window
    size: Callable[[Window, int], int]  # (window, its number of targets) -> what its totals are divided by


METRICS = {
    "bpb": Metric(
        "bits per byte", False, lambda scores: scores.nll_NS / math.log(2), lambda window, _: window.num_bytes
    ),
    "accuracy": Metric("next-token accuracy", True, lambda scores: scores.hits_NS, lambda _, targets: targets),
}
