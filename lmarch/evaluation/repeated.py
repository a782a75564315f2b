"""Next-token accuracy on text that repeats itself: half a trained length of a document, again and again up to the window.

Everything that comes has been seen before, half a trained length ago and at every multiple of it: a model that uses its
window does better than on new text, and should not get worse as the window grows (Su 2023, kexue.fm 9706).
"""

from typing import Any

import numpy as np

from lmarch.evaluation.axes import given_tokens
from lmarch.evaluation.items import Items
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.session import Session, identity

METRICS = ("accuracy", "bpb")


def rows(session: Session) -> list[dict[str, Any]]:
    """A row a (method, length, metric), along the first axis."""
    axis, made = session.axes[0], []
    items = [_tiled(session, length) for length in session.lengths]
    cells = [(method, axis, one) for method in session.methods for one in items]
    for one in filter(None, session.measure("repeated", cells)):
        for metric in METRICS:
            pairing = Pairing(one.items, metric)
            value = pairing.value(pairing.per_document(one.scores), "value", "ci")
            made.append({"task": "repeated", "metric": metric, **identity(one), **pairing.facts(), **value})
    return made


def _tiled(session: Session, length: int) -> Items:
    """The targets of the manifest's windows, in rows of the half trained length that ends in them, repeated."""
    manifest, half = session.manifest, max(session.manifest.targets, session.trained_length // 2)
    axis = session.axes[0]
    given = given_tokens(axis, length, manifest.targets, session.trained_length) if axis else None
    once = manifest.items(session.tokens, half - 1, session.byte_lengths, given=None)
    tiled_NT = np.tile(once.rows_NT, -(-(length + 1) // half))[:, -(length + 1) :]
    source = {key: value for key, value in once.source.items() if key != "manifest_sha"}
    return Items(tiled_NT, once.bytes_NS, once.scored_NS, once.clusters_N, given, once.seed, source)
