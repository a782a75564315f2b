"""Paired bits per byte: the headline number, its crop control, the context gain, and their intervals.

Every (method, length) scored the same target bytes, so differences are taken target by target before documents are
resampled. `crop` is the model as it was trained with the context cut to the trained length L; the gain of a window W
is G(W) = crop - bpb(W): above 0 the longer context helps, below 0 it hurts, at 0 it is ignored.
"""

import dataclasses
from typing import Any

import numpy as np

from lmarch.evaluation.manifest import Manifest
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.scoring import Scores
from lmarch.loading import Model
from lmarch.registry import parse_variant


@dataclasses.dataclass(frozen=True)
class Measured:
    """The scores of one (method, length)."""

    model: Model
    axis: str | None  # of `axes`; None: a causal decoder, for which there is one
    length: int
    given: int | None  # tokens of a window that are given, see `axes`
    implementation: str
    scores: Scores

    @property
    def method(self) -> str:
        return self.model.method

    @property
    def out_of_design(self) -> str | None:
        if self.model.definition.is_encoder_decoder and self.given is not None:
            return self.model.out_of_design(self.length + 1 - self.given, source_length=self.given)
        return self.model.out_of_design(self.length)


def paired_results(
    measured: list[Measured], crop: Measured, manifest: Manifest, identity: dict[str, Any]
) -> list[dict[str, Any]]:
    """One flat row a (method, length) along one axis, ready for `results.jsonl`; every value in bits per byte."""
    pairing = Pairing(manifest)
    trained_length = crop.model.config.model.trained_length
    at_trained = {m.method: pairing.per_document(m.scores) for m in measured if m.length == trained_length}
    crop_D = pairing.per_document(crop.scores)
    rows = []
    for one in measured:
        bits_D, definition = pairing.per_document(one.scores), one.model.definition
        row = {
            **identity,
            **pairing.facts(),
            "task": "paired",
            "metric": "bpb",
            "method": one.method,
            "label": definition.label,
            "factor": parse_variant(definition.specs[0].position.method).get("factor"),
            "trained_length": trained_length,
            "axis": one.axis,
            "length": one.length,
            "given": one.given,
            **pairing.value(bits_D, "value", "ci"),
            **pairing.value(crop_D, "crop", "crop"),
            **pairing.difference(crop_D, bits_D, "gain"),
            "n_nonfinite": int((~np.isfinite(one.scores.nll_NS)).sum()),
            "stride": None,
            "bos": "never",
            "implementation": one.implementation,
            "tokens_per_second": one.scores.tokens_per_second,
            "out_of_design": one.out_of_design,
        }
        if one.method in at_trained:
            row |= pairing.difference(bits_D, at_trained[one.method], "vs_trained")
        rows.append(row)
    return rows
