"""Perplexities as published tables take them, for comparison with those only.

`ppl_nonoverlap@W` cuts text into pieces of W tokens, each read alone; so a longer W also has fewer tokens that are read with
little context, and improves even where nothing extrapolates (Press et al. 2022, arXiv 2108.12409, appendix B).
`ppl_slide@W_sS` reads windows of W tokens every S tokens and scores the last S of each. Here all of them score the same
tokens, each once: the second half of passages of twice the longest length, none of which crosses a document.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.evaluation.items import Items
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.session import Session, identity


def rows(session: Session) -> list[dict[str, Any]]:
    """A row a (method, kind, length); value and interval are exp of nats per token. The stride is in the metric's name."""
    longest, stride = max(session.lengths), max(1, session.trained_length // 2)
    passages = _passages(session, longest)
    if not passages:
        session.console.print(f"  perplexity: no document has {2 * longest + 1} tokens")
        return []
    kinds = [(f"ppl_nonoverlap@{length}", length, length) for length in session.lengths]
    kinds += [(f"ppl_slide@{length}_s{stride}", length, stride) for length in session.lengths if length > stride]
    for name, *_ in (kind for kind in kinds if longest % kind[2]):
        session.console.print(f"  perplexity: {name} left out, which would not score every token of {longest} once")
    kinds = [kind for kind in kinds if longest % kind[2] == 0]
    items = {kind: _read(session, passages, *kind[1:]) for kind in kinds}
    cells = [(kind, method) for kind in kinds for method in session.methods]
    measured = session.measure("perplexity", [(method, None, items[kind]) for kind, method in cells])
    made = []
    for ((name, _, step), _), one in zip(cells, measured, strict=True):
        if one is None:
            continue
        pairing = Pairing(one.items, "nll")
        nats = pairing.value(pairing.per_document(one.scores), "value", "ci")
        perplexity = {key: float(np.exp(value)) for key, value in nats.items()}
        kept = {**identity(one), **pairing.facts(), **perplexity, "stride": step}
        made.append({"task": "perplexity", "metric": name, **kept})
    return made


def _passages(session: Session, longest: int) -> list[tuple[int, np.ndarray]]:
    """(document, 2 W + 1 tokens) for the longest W: half as many as the suite has long windows, spread over documents."""
    size = 2 * longest
    cut = [
        (number, document, tokens[number * size : (number + 1) * size + 1])
        for document, tokens in enumerate(session.tokens)
        for number in range((len(tokens) - 1) // size)
    ]
    cut.sort(key=lambda passage: passage[0])  # the first of every document, then the second ...
    return [(document, tokens) for _, document, tokens in cut[: max(1, session.size.long_windows // 2)]]


def _read(session: Session, passages: Sequence[tuple[int, np.ndarray]], length: int, step: int) -> Items:
    """Windows of `length` tokens that score their last `step`: together the second half of each passage."""
    half = (len(passages[0][1]) - 1) // 2
    ends = range(half + step, 2 * half + 1, step)
    rows_NT = np.stack([tokens[end - length : end + 1] for _, tokens in passages for end in ends]).astype(np.int32)
    bytes_NS = session.byte_lengths[rows_NT[:, -step:]]
    documents = np.repeat([document for document, _ in passages], len(ends))
    source = {"corpus": session.manifest.corpus, "split": session.manifest.split, "bos": "never"}
    every = np.ones_like(bytes_NS, bool)
    return Items(rows_NT, bytes_NS, every, documents, None, session.manifest.seed, source)
