"""Scores of the same items in one metric, gathered by document and compared on the same resamples of documents."""

from typing import Any

import numpy as np

from lmarch.evaluation.items import Items
from lmarch.evaluation.metrics import METRICS
from lmarch.evaluation.scoring import Scores
from lmarch.evaluation.statistics import (
    Interval,
    OverBoth,
    difference_interval,
    document_resamples,
    ratio,
    ratio_interval,
    wilson,
)

FEWEST_DOCUMENTS = 30  # below this an interval is flagged: a percentile bootstrap of few clusters is too narrow


class Pairing:
    """Values and differences in the metric's unit, as entries of a flat result row.

    Documents none of whose targets count are left out.
    """

    def __init__(self, items: Items, metric: str = "bpb") -> None:
        self.metric, self.items = METRICS[metric], items
        _, self._index_N = np.unique(items.clusters_N, return_inverse=True)
        sizes_D = np.bincount(self._index_N, self.metric.sizes_N(items))
        self._counting_D = sizes_D > 0
        self.sizes_D, self.count = sizes_D[self._counting_D], int(self._counting_D.sum())
        self._counts_BD = document_resamples(self.count, items.seed)

    def per_document(self, scores: Scores) -> np.ndarray:
        """The metric's totals, such as bits, of each document's targets, [D]."""
        return np.bincount(self._index_N, self.metric.totals_N(scores, self.items))[self._counting_D]

    def value(self, total_D: np.ndarray, name: str, bounds: str) -> dict[str, float]:
        """The interval of a share of independent items is Wilson's, which is right where all or none of them are."""
        share = ratio(total_D, self.sizes_D)
        if self.metric.one_an_item and (self.sizes_D == 1).all():
            return _entries(share, wilson(share, self.count), name, bounds)
        return _entries(share, ratio_interval(total_D, self.sizes_D, self._counts_BD), name, bounds)

    def difference(self, a_D: np.ndarray, b_D: np.ndarray, name: str) -> dict[str, float]:
        """a - b, on the same targets."""
        interval = difference_interval(a_D, b_D, self.sizes_D, self._counts_BD)
        value = ratio(a_D, self.sizes_D) - ratio(b_D, self.sizes_D)
        return _entries(value, interval, name, name)

    def over_both(self, a_SD: np.ndarray, b_SD: np.ndarray) -> OverBoth:
        """a - b of each training seed, on the same targets."""
        with np.errstate(invalid="ignore"):  # inf − inf is no number, and is treated as any other that is not finite
            return OverBoth.of(a_SD - b_SD, self.sizes_D, self._counts_BD)

    def facts(self) -> dict[str, Any]:
        """What was scored."""
        items = self.items
        return {
            "n": self.count,
            "low_n": self.count < FEWEST_DOCUMENTS,
            "n_windows": len(items.rows_NT),
            "n_targets": int(items.scored_NS.sum()),
            "n_bytes": int((items.bytes_NS * items.scored_NS).sum()),
            "targets": items.targets,
            "manifest_sha": items.fingerprint,  # unless the items say where they are from
            **items.source,
        }


def _entries(value: float, interval: Interval, name: str, bounds: str) -> dict[str, float]:
    return {name: value, f"{bounds}_low": interval.low, f"{bounds}_high": interval.high}
