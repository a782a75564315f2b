"""What an experiment reads at a length: the same text, or problems, for all of its models."""

import functools
from collections.abc import Callable, Collection

from lmarch.config import Config
from lmarch.data.corpora import load_documents
from lmarch.data.documents import Split
from lmarch.data.material import material
from lmarch.data.tokenizers import tokenizer_of
from lmarch.errors import UserError
from lmarch.evaluation.axes import given_tokens
from lmarch.evaluation.items import Items
from lmarch.evaluation.manifest import make_manifest
from lmarch.evaluation.problems import as_items, draw
from lmarch.experiments.definition import Experiment
from lmarch.tasks import TASKS

Reading = Callable[[int, str | None], Items]  # (length, axis) -> what is read


def lengths_of(experiment: Experiment, configs: Collection[Config]) -> list[int]:
    trained = {config.model.trained_length for config in configs}
    if len(trained) != 1:
        raise UserError(f"an experiment compares models of one trained length, these have {sorted(trained)}")
    (length,) = trained
    return [int(multiple * length) for multiple in experiment.multiples]


def reading_of(
    experiment: Experiment, config: Config, lengths: list[int], split: Split, windows: int | None = None
) -> tuple[Reading, str]:
    """What models of this config read, and a name for that text; refused before any model is trained.

    Args:
      windows: none: as many as the experiment says.
    """
    windows = windows or experiment.windows
    tokenizer, trained = tokenizer_of(config.data), config.model.trained_length
    if experiment.task is not None:
        task, made_of = TASKS.build(experiment.task), material(config.data, split, tokenizer)
        for length in lengths:
            task.check(made_of, length)

        @functools.cache
        def problems(length: int, axis: str | None) -> Items:
            return as_items(draw(task, made_of, length, windows, seed=0), task, tokenizer, seed=0)

        return problems, f"{experiment.task} of {split}"
    documents = load_documents(config.data, split)
    manifest, tokens = make_manifest(
        documents,
        tokenizer,
        longest=max(lengths),
        shortest=min(lengths),
        targets=trained // 4,
        num_windows=windows,
        seed=0,
    )

    @functools.cache
    def text(length: int, axis: str | None) -> Items:
        given = given_tokens(axis, length, manifest.targets, trained) if axis else None
        return manifest.items(tokens, length, tokenizer.byte_lengths, given)

    return text, documents.fingerprint
