"""What a target is worth: the metrics of scored items, each a ratio of sums."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lmarch.evaluation.items import Items
from lmarch.evaluation.scoring import Scores


@dataclasses.dataclass(frozen=True)
class Metric:
    unit: str
    higher_is_better: bool
    totals_N: Callable[[Scores, Items], np.ndarray]
    sizes_N: Callable[[Items], np.ndarray]  # what totals are divided by
    one_an_item: bool = False  # a share of items that are right


METRICS = {
    "bpb": Metric(
        "bits per byte",
        False,
        lambda scores, items: np.where(items.scored_NS, scores.nll_NS, 0.0).sum(-1, dtype=np.float64) / math.log(2),
        lambda items: (items.bytes_NS * items.scored_NS).sum(-1),
    ),
    "nll": Metric(
        "nats per token",
        False,
        lambda scores, items: np.where(items.scored_NS, scores.nll_NS, 0.0).sum(-1, dtype=np.float64),
        lambda items: items.scored_NS.sum(-1),
    ),
    "accuracy": Metric(
        "next-token accuracy",
        True,
        lambda scores, items: (scores.hits_NS & items.scored_NS).sum(-1),
        lambda items: items.scored_NS.sum(-1),
    ),
    # Every token of an answer is the most likely one after those before it, which is when greedy decoding says it.
    "exact_match": Metric(
        "exact match",
        True,
        lambda scores, items: (scores.hits_NS | ~items.scored_NS).all(-1),
        lambda items: np.ones(len(items.rows_NT), int),
        one_an_item=True,
    ),
}
