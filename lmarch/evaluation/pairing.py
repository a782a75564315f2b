"""Scores of one manifest's windows, gathered by document and compared on the same resamples of documents."""

from typing import Any

import numpy as np

from lmarch.evaluation.manifest import Manifest
from lmarch.evaluation.statistics import (
    Interval,
    bits_per_byte,
    difference_interval,
    document_resamples,
    ratio_interval,
)

FEWEST_DOCUMENTS = 30  # below this an interval is flagged: a percentile bootstrap of few clusters is too narrow


class Pairing:
    """Values and differences in bits per byte, as entries of a flat result row."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, documents = manifest, manifest.document_ids()
        self.count = len(documents)
        self._index = np.searchsorted(documents, [window.document for window in manifest.windows])
        self.bytes_D = np.bincount(self._index, [window.num_bytes for window in manifest.windows])
        self._counts_BD = document_resamples(self.count, manifest.seed)

    def per_document(self, nll_NS: np.ndarray) -> np.ndarray:
        """Nats of each document's targets, [D], of those of each window's."""
        return np.bincount(self._index, nll_NS.astype(np.float64).sum(-1))

    def value(self, nll_D: np.ndarray, name: str, bounds: str) -> dict[str, float]:
        interval = ratio_interval(nll_D, self.bytes_D, self._counts_BD)
        return _entries(bits_per_byte(nll_D, self.bytes_D), interval, name, bounds)

    def difference(self, a_D: np.ndarray, b_D: np.ndarray, name: str) -> dict[str, float]:
        """a - b, on the same targets."""
        interval = difference_interval(a_D, b_D, self.bytes_D, self._counts_BD)
        value = bits_per_byte(a_D, self.bytes_D) - bits_per_byte(b_D, self.bytes_D)
        return _entries(value, interval, name, name)

    def facts(self) -> dict[str, Any]:
        """What was scored."""
        manifest = self.manifest
        return {
            "n": self.count,
            "low_n": self.count < FEWEST_DOCUMENTS,
            "n_windows": len(manifest.windows),
            "n_bytes": int(self.bytes_D.sum()),
            "targets": manifest.targets,
            "corpus": manifest.corpus,
            "split": manifest.split,
            "manifest_sha": manifest.sha256,
        }


def _entries(value: float, interval: Interval, name: str, bounds: str) -> dict[str, float]:
    return {name: value, f"{bounds}_low": interval.low, f"{bounds}_high": interval.high}
