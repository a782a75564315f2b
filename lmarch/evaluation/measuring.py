"""Scores of a model on items, kept on disk: nothing is measured twice, and an interrupted evaluation goes on.

What was measured is found again by the method, the weights, the config, the items and the code that computes scores. After a
change of that code it is measured anew.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmarch.attention.implementations import choose
from lmarch.attention.workload import Workload
from lmarch.config import digest
from lmarch.durable import replacing
from lmarch.evaluation.items import Items
from lmarch.evaluation.scoring import Scores, score
from lmarch.loading import Model
from lmarch.provenance import measurement

SCORED = tuple(field.name for field in dataclasses.fields(Scores))  # what a file holds; an older one is made anew


@dataclasses.dataclass(frozen=True)
class Measured:
    """The scores of one model, or of one method on it, on some items."""

    model: Model
    axis: str | None  # of `axes`; None: a causal decoder, for which there is one
    items: Items
    implementation: str
    scores: Scores
    origin: Mapping[str, Any]  # entries of a result row: with which code, versions and device, and when
    outdated: bool = False  # there were scores, by other code

    @property
    def method(self) -> str:
        return self.model.method

    @property
    def length(self) -> int:
        return self.items.length

    @property
    def out_of_design(self) -> str | None:
        items = self.items
        if self.model.definition.is_encoder_decoder and items.given is not None:
            return self.model.out_of_design(items.length + 1 - items.given, source_length=items.given)
        return self.model.out_of_design(items.length)


def measure(
    model: Model, items: Items, folder: Path, report: Callable[[int], None], axis: str | None = None
) -> Measured:
    """From a file in `folder` if it is there for this code, these weights and items, else scored now and kept.

    Args:
      report: called with the number of rows scored so far.
      axis: noted, and part of the file's name.
    """
    before = found(model, items, folder, axis)
    if before is not None and not before.outdated:
        return before
    scores, origin = score(model, items, report), measurement()
    file = file_of(model, items, folder, axis)
    asked = _asked(model, items)
    with replacing(file) as partial:
        np.savez(partial, **dataclasses.asdict(scores), asked=asked, origin=json.dumps(origin))
    return Measured(model, axis, items, _implementation(model, items), scores, origin, outdated=before is not None)


def found(model: Model, items: Items, folder: Path, axis: str | None) -> Measured | None:
    """What was measured before of these weights and items, by whatever code."""
    file = file_of(model, items, folder, axis)
    if not file.exists():
        return None
    with np.load(file) as stored:
        if "origin" not in stored or str(stored["asked"]) != _asked(model, items):
            return None
        scores = Scores(stored["nll_NS"], stored["hits_NS"], float(stored["tokens_per_second"]))
        origin = json.loads(str(stored["origin"]))
    outdated = origin["code"] != measurement()["code"]
    return Measured(model, axis, items, _implementation(model, items), scores, origin, outdated)


def _asked(model: Model, items: Items) -> str:
    """What was measured, but for the code."""
    of_model = (model.method, model.weights_fingerprint, model.config.fingerprint())
    return digest([*of_model, items.fingerprint, _implementation(model, items), *SCORED])


def _implementation(model: Model, items: Items) -> str:
    settings, length, given = model.definition.config, items.length, items.given
    packed = model.sampled_reach is not None or settings.architecture == "prefix_decoder"
    texts = (given, length + 1 - given) if given and model.definition.is_encoder_decoder else (length,)
    longest, dtype = max(texts), settings.compute_dtype
    return choose(settings.attention, Workload(model.spec, longest, longest, dtype, packed=packed))


def file_of(model: Model, items: Items, folder: Path, axis: str | None) -> Path:
    """Where the scores are kept."""
    name = re.sub(r"[^\w.=]+", "-", model.method)
    name = name if len(name) < 80 else f"{name[:60]}-{digest(model.method)}"
    return folder / f"{name}@{items.length}{f'-{axis}' if axis else ''}-{items.fingerprint}.npz"
