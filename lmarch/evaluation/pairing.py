"""Scores of one manifest's windows in one metric, gathered by document and compared on the same resamples of documents."""

from typing import Any

import numpy as np

from lmarch.evaluation.manifest import Manifest
from lmarch.evaluation.metrics import METRICS
from lmarch.evaluation.scoring import Scores
from lmarch.evaluation.statistics import (
    Interval,
    difference_interval,
    document_resamples,
    ratio,
    ratio_interval,
)

FEWEST_DOCUMENTS = 30  # below this an interval is flagged: a percentile bootstrap of few clusters is too narrow


class Pairing:
    """Values and differences in the metric's unit, as entries of a flat result row."""

    def __init__(self, manifest: Manifest, metric: str = "bpb") -> None:
        self.metric, self.manifest, documents = METRICS[metric], manifest, manifest.document_ids()
        self.count = len(documents)
        self._index = np.searchsorted(documents, [window.document for window in manifest.windows])
        self.sizes_D = np.bincount(self._index, [self.metric.size(w, manifest.targets) for w in manifest.windows])
        self._counts_BD = document_resamples(self.count, manifest.seed)

    def per_document(self, scores: Scores) -> np.ndarray:
        """The metric's totals, such as bits, of each document's targets, [D]."""
        return np.bincount(self._index, self.metric.totals(scores).astype(np.float64).sum(-1))

    def value(self, total_D: np.ndarray, name: str, bounds: str) -> dict[str, float]:
        interval = ratio_interval(total_D, self.sizes_D, self._counts_BD)
        return _entries(ratio(total_D, self.sizes_D), interval, name, bounds)

    def difference(self, a_D: np.ndarray, b_D: np.ndarray, name: str) -> dict[str, float]:
        """a - b, on the same targets."""
        interval = difference_interval(a_D, b_D, self.sizes_D, self._counts_BD)
        value = ratio(a_D, self.sizes_D) - ratio(b_D, self.sizes_D)
        return _entries(value, interval, name, name)

    def facts(self) -> dict[str, Any]:
        """What was scored."""
        manifest = self.manifest
        return {
            "n": self.count,
            "low_n": self.count < FEWEST_DOCUMENTS,
            "n_windows": len(manifest.windows),
            "n_bytes": sum(window.num_bytes for window in manifest.windows),
            "targets": manifest.targets,
            "corpus": manifest.corpus,
            "split": manifest.split,
            "manifest_sha": manifest.sha256,
        }


def _entries(value: float, interval: Interval, name: str, bounds: str) -> dict[str, float]:
    return {name: value, f"{bounds}_low": interval.low, f"{bounds}_high": interval.high}
