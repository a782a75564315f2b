"""Loss by position: one pass over windows of the longest length, every token of which is scored.

Windows start anywhere inside documents: were they beginnings, the position of a token would be its place in a text. The
slope is the loss of the first half of a trained length beyond L minus that of the last half before it, in the same windows.
"""

from typing import Any

import numpy as np

from lmarch.evaluation.items import Items
from lmarch.evaluation.measuring import Measured
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.session import Session, identity

BUCKETS_A_LENGTH = 16  # of the trained length


def rows(session: Session) -> list[dict[str, Any]]:
    """A row a (method, bucket of positions), and one a method with the slope."""
    items = long_items(session)
    measured = session.measure("by_position", [(method, None, items) for method in session.methods])
    trained = session.trained_length
    return [row for one in measured if one for row in [*_buckets(one, trained), *_slope(one, trained)]]


def long_items(session: Session) -> Items:
    """Windows of the longest length, at random places of the documents that the manifest draws from."""
    length, seed = max(session.lengths), session.manifest.seed
    rng = np.random.default_rng((seed, length))
    documents = [d for d, tokens in enumerate(session.tokens) if len(tokens) > length]
    chosen = [documents[n % len(documents)] for n in range(session.size.long_windows)]
    starts = [int(rng.integers(0, len(session.tokens[d]) - length)) for d in chosen]
    rows_NT = np.stack([session.tokens[d][s : s + length + 1] for d, s in zip(chosen, starts, strict=True)])
    bytes_NS = session.byte_lengths[rows_NT[:, 1:]]
    source = {"corpus": session.manifest.corpus, "split": session.manifest.split, "bos": "never"}
    every = np.ones_like(bytes_NS, bool)
    return Items(rows_NT.astype(np.int32), bytes_NS, every, np.array(chosen), None, seed, source)


def _buckets(one: Measured, trained: int) -> list[dict[str, Any]]:
    width = max(1, trained // BUCKETS_A_LENGTH)
    made = []
    for start in range(0, one.length, width):
        pairing = Pairing(_between(one.items, start, start + width))
        made.append(
            {
                "task": "by_position",
                "metric": "bpb",
                **identity(one),
                **pairing.facts(),
                "from_position": start,
                "to_position": min(start + width, one.length),
                **pairing.value(pairing.per_document(one.scores), "value", "ci"),
            }
        )
    return made


def _slope(one: Measured, trained: int) -> list[dict[str, Any]]:
    half = trained // 2
    if one.length < trained + half:
        return []
    after, before = (Pairing(_between(one.items, start, start + half), "nll") for start in (trained, trained - half))
    slope = after.difference(after.per_document(one.scores), before.per_document(one.scores), "ci")
    return [{"task": "slope", "metric": "nll", **identity(one), **after.facts(), "value": slope.pop("ci"), **slope}]


def _between(items: Items, start: int, end: int) -> Items:
    """The items, of whose targets those read at positions start .. end - 1 count."""
    column = np.arange(items.targets)
    return items.counting(np.broadcast_to((column >= start) & (column < end), items.scored_NS.shape))
