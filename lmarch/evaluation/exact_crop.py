"""The crop control once more, each target with exactly L tokens before it.

The paired crop control feeds L tokens and scores the last S, which have between L - S + 1 and L tokens before them. A method
that only read the rest of the trained length would seem to gain by it. Here some of the same targets are fed one window each.
"""

from typing import Any

import numpy as np

from lmarch.evaluation.items import Items
from lmarch.evaluation.paired import measured_by_axis
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.session import Session, identity

TARGETS_A_WINDOW = 8  # at most, spread evenly: each is a row of its own


def rows(session: Session) -> list[dict[str, Any]]:
    """One row: bits per byte with exactly L tokens, and by how much that is better than the paired control on those targets."""
    chosen_NS = chosen_targets(session)
    if not chosen_NS.any():
        session.console.print("  exact_crop: no document is long enough for L tokens before a target")
        return []
    ((crop, _),) = measured_by_axis(session)
    (exact,) = session.measure("exact_crop", [(session.as_trained, None, exact_items(session, chosen_NS))])
    if exact is None:
        return []
    pairing, paired = Pairing(exact.items), Pairing(crop.items.counting(chosen_NS))
    exact_D, crop_D = pairing.per_document(exact.scores), paired.per_document(crop.scores)
    return [
        {
            "task": "exact_crop",
            "metric": "bpb",
            **identity(exact),
            **pairing.facts(),
            **pairing.value(exact_D, "value", "ci"),
            **paired.value(crop_D, "crop", "crop"),
            **pairing.difference(crop_D, exact_D, "gain"),
        }
    ]


def chosen_targets(session: Session) -> np.ndarray:
    """bool [N, S]: which targets, of those that have room for L tokens before them."""
    manifest, trained = session.manifest, session.trained_length
    places = np.unique(np.linspace(0, manifest.targets - 1, min(TARGETS_A_WINDOW, manifest.targets)).astype(int))
    spread_S = np.isin(np.arange(manifest.targets), places)
    first_N = np.array([window.first for window in manifest.windows])
    return spread_S & (first_N[:, None] + np.arange(manifest.targets) >= trained)


def exact_items(session: Session, chosen_NS: np.ndarray) -> Items:
    """A row of L + 1 tokens a chosen target, which is its last."""
    manifest, trained = session.manifest, session.trained_length
    windows, places = np.nonzero(chosen_NS)
    ends = [
        (manifest.windows[n].document, manifest.windows[n].first + j + 1) for n, j in zip(windows, places, strict=True)
    ]
    rows_NT = np.stack([session.tokens[d][end - trained - 1 : end] for d, end in ends]).astype(np.int32)
    bytes_N1 = session.byte_lengths[rows_NT[:, -1:]]
    source = {"corpus": manifest.corpus, "split": manifest.split, "bos": "never", "manifest_sha": manifest.sha256}
    documents = np.array([d for d, _ in ends])
    return Items(rows_NT, bytes_N1, np.ones_like(bytes_N1, bool), documents, None, manifest.seed, source)
