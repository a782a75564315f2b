"""Paired bits per byte: the headline number, its crop control, the context gain, and their intervals.

Every (method, length) scored the same target bytes, so differences are taken target by target before documents are
resampled. `crop` is the model as it was trained with the context cut to the trained length L; the gain of a window W
is G(W) = crop - bpb(W): above 0 the longer context helps, below 0 it hurts, at 0 it is ignored.
"""

import dataclasses
from typing import Any

import numpy as np

from lmarch.evaluation.manifest import Manifest
from lmarch.evaluation.statistics import bits_per_byte, difference_interval, document_resamples, ratio_interval
from lmarch.loading import Model
from lmarch.registry import parse_variant

FEWEST_DOCUMENTS = 30  # below this an interval is flagged: a percentile bootstrap of few clusters is too narrow


@dataclasses.dataclass(frozen=True)
class Measured:
    """The scores of one (method, length)."""

    model: Model
    length: int
    implementation: str
    nll_NS: np.ndarray
    tokens_per_second: float

    @property
    def method(self) -> str:
        return self.model.method


def paired_results(
    measured: list[Measured], crop: Measured, manifest: Manifest, identity: dict[str, Any]
) -> list[dict[str, Any]]:
    """One flat row a (method, length), ready for `results.jsonl`; every value in bits per byte."""
    documents = manifest.document_ids()
    index = np.searchsorted(documents, [window.document for window in manifest.windows])
    bytes_D = np.bincount(index, [window.num_bytes for window in manifest.windows])
    counts_BD = document_resamples(len(documents), manifest.seed)

    def per_document(scores: Measured) -> np.ndarray:
        return np.bincount(index, scores.nll_NS.astype(np.float64).sum(-1))

    def difference(a_D: np.ndarray, b_D: np.ndarray, name: str) -> dict[str, float]:
        interval = difference_interval(a_D, b_D, bytes_D, counts_BD)
        value = bits_per_byte(a_D, bytes_D) - bits_per_byte(b_D, bytes_D)
        return {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high}

    def value(nll_D: np.ndarray, name: str, bounds: str) -> dict[str, float]:
        interval = ratio_interval(nll_D, bytes_D, counts_BD)
        return {name: bits_per_byte(nll_D, bytes_D), f"{bounds}_low": interval.low, f"{bounds}_high": interval.high}

    trained_length = crop.model.config.model.trained_length
    at_trained = {m.method: per_document(m) for m in measured if m.length == trained_length}
    crop_D = per_document(crop)
    rows = []
    for scores in measured:
        nll_D, definition = per_document(scores), scores.model.definition
        row = {
            **identity,
            "task": "paired",
            "metric": "bpb",
            "corpus": manifest.corpus,
            "split": manifest.split,
            "method": scores.method,
            "label": definition.label,
            "factor": parse_variant(definition.specs[0].position.method).get("factor"),
            "trained_length": trained_length,
            "length": scores.length,
            **value(nll_D, "value", "ci"),
            **value(crop_D, "crop", "crop"),
            **difference(crop_D, nll_D, "gain"),
            "n": len(documents),
            "low_n": len(documents) < FEWEST_DOCUMENTS,
            "n_windows": len(manifest.windows),
            "n_bytes": int(bytes_D.sum()),
            "n_nonfinite": int((~np.isfinite(scores.nll_NS)).sum()),
            "targets": manifest.targets,
            "stride": None,
            "bos": "never",
            "implementation": scores.implementation,
            "tokens_per_second": scores.tokens_per_second,
            "out_of_design": scores.model.out_of_design(scores.length),
            "manifest_sha": manifest.sha256,
        }
        if scores.method in at_trained:
            row |= difference(nll_D, at_trained[scores.method], "vs_trained")
        rows.append(row)
    return rows
