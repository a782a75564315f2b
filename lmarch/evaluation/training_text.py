"""The text that a checkpoint was trained on: that of its own run, and of those that it was fine-tuned from.

A run records a fingerprint of its packed rows. If today's text gives the same one, that is what was trained on; if the text has
changed since, the packed rows themselves are looked for in the cache. Where neither is there, it is not known.
"""

from collections.abc import Iterator

from lmarch.config import Config, from_dict
from lmarch.data.corpora import load_documents
from lmarch.data.packing import fingerprint_of, kept_rows
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.loading import Model
from lmarch.training.workdir import read_record


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
        yield from _text(config, fingerprint, model.tokenizer)  # runs that start from one another share it


def _lineage(model: Model) -> list[tuple[Config, str]]:
    """The config of each run, and the fingerprint of its rows."""
    record = read_record(model.workdir)
    if "rows_fingerprint" not in record:
        raise NotKnown(f"{model.workdir} has no record of the text it was trained on")
    if model.config.train.start_from is not None and "ancestors" not in record:
        raise NotKnown(
            f"{model.workdir} has no record of the text of {model.config.train.start_from}, which it starts from"
        )
    before = [(from_dict(dict(one["config"])), str(one["rows_fingerprint"])) for one in record.get("ancestors", [])]
    return [(model.config, record["rows_fingerprint"]), *before]


def _text(config: Config, fingerprint: str, tokenizer: Tokenizer) -> Iterator[str]:
    plan = make_plan(config)
    try:
        today = fingerprint_of(config.data, "train", plan.text_length, tokenizer, plan.budget)
    except UserError:  # the text is gone, or cannot be read any more
        today = None
    if today == fingerprint:
        yield from (document.text for document in load_documents(config.data, "train"))
        return
    rows = kept_rows(config.data, fingerprint)
    if rows is None:
        raise NotKnown(
            f"config.data.corpus={config.data.corpus!r} is not the text that was trained on any more, and rows {fingerprint} "
            f"are not in {config.data.cache_dir}"
        )
    for stream in rows.streams:
        yield from (tokenizer.decode(document[1:-1]) for document in stream)  # without bos and eos
