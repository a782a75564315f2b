"""Paired bits per byte: the headline number, its crop control, the context gain, and their intervals.

Every (method, length) scored the same target bytes, so differences are taken target by target before documents are
resampled. `crop` is the model as it was trained with the context cut to the trained length L; the gain of a window W
is G(W) = crop - bpb(W): above 0 the longer context helps, below 0 it hurts, at 0 it is ignored.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.errors import UserError
from lmarch.evaluation.axes import given_tokens
from lmarch.evaluation.measuring import Measured
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.session import Session, identity
from lmarch.registry import parse_variant


def rows(session: Session) -> list[dict[str, Any]]:
    return [row for crop, others in measured_by_axis(session) for row in paired_results(others, crop)]


@functools.lru_cache(maxsize=1)  # far copies are counted in the same scores
def measured_by_axis(session: Session) -> list[tuple[Measured, list[Measured]]]:
    """Along each axis the crop control, and every (method, length)."""
    trained, tokens, manifest = session.trained_length, session.tokens, session.manifest
    cells = []
    for axis in session.axes:
        items = {
            length: manifest.items(
                tokens,
                length,
                session.byte_lengths,
                given_tokens(axis, length, manifest.targets, trained) if axis else None,
            )
            for length in {trained, *session.lengths}
        }
        cells += [(session.as_trained, axis, items[trained])]
        cells += [(method, axis, items[length]) for method in session.methods for length in session.lengths]
    measured = session.measure("paired", cells)
    each, made = len(measured) // len(session.axes), []
    for number in range(len(session.axes)):
        crop, *others = measured[number * each : (number + 1) * each]
        if crop is None:
            raise UserError(f"not even windows of the trained length {trained} fit the memory: nothing can be compared")
        made.append((crop, [one for one in others if one is not None]))
    return made


def paired_results(
    measured: Sequence[Measured], crop: Measured, task: str = "paired", counted_NS: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """One flat row a (method, length) along one axis; every value in bits per byte.

    Args:
      counted_NS: which targets count; none: all.
    """
    pairing = Pairing(crop.items if counted_NS is None else crop.items.counting(counted_NS))
    trained_length = crop.model.config.model.trained_length
    at_trained = {m.method: pairing.per_document(m.scores) for m in measured if m.length == trained_length}
    crop_D = pairing.per_document(crop.scores)
    made = []
    for one in measured:
        bits_D = pairing.per_document(one.scores)
        row = {
            "task": task,
            "metric": "bpb",
            **identity(one),
            **pairing.facts(),
            "factor": parse_variant(one.model.definition.specs[0].position.method).get("factor"),
            **pairing.value(bits_D, "value", "ci"),
            **pairing.value(crop_D, "crop", "crop"),
            **pairing.difference(crop_D, bits_D, "gain"),
            "stride": None,
        }
        if one.method in at_trained:
            row |= pairing.difference(bits_D, at_trained[one.method], "vs_trained")
        made.append(row)
    return made
