"""The text that a checkpoint was trained on: that of its own run, and of those that it was fine-tuned from.

A run records a fingerprint of its packed rows. If today's text gives the same one, that is what was trained on; if the text has
changed since, the packed rows themselves are looked for in the cache. Where neither is there, it is not known.
"""

import json
from collections.abc import Iterator

import numpy as np

from lmarch.config import Config, from_dict
from lmarch.data.corpora import load_documents
from lmarch.data.packing import fingerprint_of, kept_rows
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import Tokenizer, load_tokenizer
from lmarch.errors import UserError
from lmarch.loading import Model


class NotKnown(Exception):
    """What was trained on cannot be told; the message says why."""


def rows_trained_on(model: Model) -> tuple[str, ...]:
    """Fingerprints of the packed rows: of the run, then of the runs that it goes back to.

    Raises:
      NotKnown: a run has no record of its text.
    """
    return tuple(fingerprint for _, fingerprint in _lineage(model))


def training_text(model: Model) -> Iterator[str]:
    """Every document of it, or piece of one; raises NotKnown."""
    for config, fingerprint in _lineage(model):
        yield from _text(config, fingerprint)


def _lineage(model: Model) -> list[tuple[Config, str]]:
    """The config of each run, and the fingerprint of its rows."""
    file = model.workdir / "run.json"
    record = json.loads(file.read_text()) if file.is_file() else {}
    if "rows_fingerprint" not in record:
        raise NotKnown(f"{model.workdir} has no record of the text it was trained on")
    if model.config.train.start_from is not None and "ancestors" not in record:
        raise NotKnown(
            f"{model.workdir} has no record of the text of {model.config.train.start_from}, which it starts from"
        )
    before = [(from_dict(dict(one["config"])), str(one["rows_fingerprint"])) for one in record.get("ancestors", [])]
    return [(model.config, record["rows_fingerprint"]), *before]


def _text(config: Config, fingerprint: str) -> Iterator[str]:
    plan, tokenizer = make_plan(config), load_tokenizer(config.data.tokenizer)
    try:
        documents = load_documents(config.data, "train")
    except UserError:
        documents = None
    if documents is not None and fingerprint_of(documents, plan.text_length, tokenizer, plan.budget) == fingerprint:
        yield from (document.text for document in documents)
        return
    rows = kept_rows(config.data, fingerprint)
    if rows is None:
        raise NotKnown(
            f"config.data.corpus={config.data.corpus!r} is not the text that was trained on any more, and rows {fingerprint} "
            f"are not in {config.data.cache_dir}"
        )
    yield from _decoded(rows.tokens, rows.documents, tokenizer)


def _decoded(tokens_NW: np.ndarray, documents_NW: np.ndarray, tokenizer: Tokenizer) -> Iterator[str]:
    """The documents of packed rows."""
    if (
        len(tokens_NW) > 1 and (tokens_NW[:-1, -1] == tokens_NW[1:, 0]).all()
    ):  # a row ends in the first token of the next
        last = tokens_NW[-1:, -1:]
        tokens, owners = np.append(tokens_NW[:, :-1], last), np.append(documents_NW[:, :-1], documents_NW[-1:, -1:])
    else:
        tokens, owners = tokens_NW.ravel(), documents_NW.ravel()
    tokens, owners = tokens[owners >= 0], owners[owners >= 0]
    for document in np.split(tokens, np.flatnonzero(np.diff(owners)) + 1):
        yield tokenizer.decode(document[(document != tokenizer.bos) & (document != tokenizer.eos)])
