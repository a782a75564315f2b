"""Scores of a model on items, kept on disk: nothing is measured twice, and an interrupted evaluation goes on."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lmarch.attention.attend import choose
from lmarch.config import digest
from lmarch.evaluation.items import Items
from lmarch.evaluation.scoring import Scores, score
from lmarch.loading import Model

SCORED = tuple(field.name for field in dataclasses.fields(Scores))  # what a file holds; an older one is made anew


@dataclasses.dataclass(frozen=True)
class Measured:
    """The scores of one model, or of one method on it, on some items."""

    model: Model
    axis: str | None  # of `axes`; None: a causal decoder, for which there is one
    items: Items
    implementation: str
    scores: Scores

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
    """From a file in `folder` if it is there for these weights and items, else scored now and kept.

    Args:
      report: called with the number of rows scored so far.
      axis: noted, and part of the file's name.
    """
    method, settings = model.method, model.definition.config
    packed = model.sampled_reach is not None or settings.architecture == "prefix_decoder"
    length, given = items.length, items.given
    texts = (given, length + 1 - given) if given and model.definition.is_encoder_decoder else (length,)
    implementation = choose(settings.attention, model.spec, max(texts), packed=packed, dtype=settings.compute_dtype)
    source = digest(
        [method, model.weights_fingerprint, model.config.fingerprint(), items.fingerprint, implementation, *SCORED]
    )
    file = file_of(model, items, folder, axis)
    if file.exists():
        with np.load(file) as stored:
            if str(stored["source"]) == source:
                scores = Scores(stored["nll_NS"], stored["hits_NS"], float(stored["tokens_per_second"]))
                return Measured(model, axis, items, implementation, scores)
    scores = score(model, items, report)
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, **dataclasses.asdict(scores), source=source)
    partial.replace(file)
    return Measured(model, axis, items, implementation, scores)


def file_of(model: Model, items: Items, folder: Path, axis: str | None) -> Path:
    """Where the scores are kept."""
    name = re.sub(r"[^\w.=]+", "-", model.method)
    name = name if len(name) < 80 else f"{name[:60]}-{digest(model.method)}"
    return folder / f"{name}@{items.length}{f'-{axis}' if axis else ''}-{items.fingerprint}.npz"
