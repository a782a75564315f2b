"""Bits per byte of far copies: the targets that a longer context can help with.

A far copy ends a run of tokens that stands earlier in the document too, beyond the trained length but whole within the longest
window, and not within the trained length (Sun et al. 2021, arXiv 2109.09115, split tokens by their last occurrence). In bytes
single tokens recur everywhere, so runs of about eight bytes are what recurs. Of most targets nothing can be learned from
far away, and their average hides what can.
"""

from typing import Any

import numpy as np

from lmarch.evaluation.paired import measured_by_axis, paired_results
from lmarch.evaluation.session import Session

RUN_BYTES = 8


def rows(session: Session) -> list[dict[str, Any]]:
    """As paired; nothing where no target is such a copy, or no window is longer than the trained length."""
    far_NS = far_copies(session)
    if not far_NS.any():
        session.console.print("  far_copies: no target is one")
        return []
    return [
        row
        for crop, others in measured_by_axis(session)
        for row in paired_results(others, crop, "far_copies", counted_NS=far_NS)
    ]


def far_copies(session: Session) -> np.ndarray:
    """bool [N, S]: which of the manifest's targets are far copies."""
    manifest, trained, longest = session.manifest, session.trained_length, max(session.lengths)
    # How many tokens the longest window has before each target.
    before_S = longest - manifest.targets + 1 + np.arange(manifest.targets)
    of_document = {}
    for document in manifest.document_ids():
        tokens = session.tokens[document]
        run = max(1, round(RUN_BYTES / session.byte_lengths[tokens].mean()))
        of_document[document] = lags(tokens, run), run
    far_NS = []
    for window in manifest.windows:
        lags_n, run = of_document[window.document]
        lags_S = lags_n[window.first : window.first + manifest.targets]
        far_NS.append((lags_S > trained) & (lags_S <= before_S - (run - 1)))  # the copy is seen from its first token on
    return np.stack(far_NS)


def lags(tokens: np.ndarray, run: int) -> np.ndarray:
    """How many tokens back the run that ends in each token last ended before, int [n]; a huge number if never."""
    last: dict[bytes, int] = {}
    found = np.full(len(tokens), np.iinfo(np.int64).max)
    wide = np.ascontiguousarray(tokens, np.int32)
    for end in range(run - 1, len(tokens)):
        key = wide[end - run + 1 : end + 1].tobytes()
        if key in last:
            found[end] = end - last[key]
        last[key] = end
    return found
