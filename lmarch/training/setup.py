"""Everything that a run needs before its first step, put together and checked: a mistake is found here, not on the way."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmarch.attention.implementations import choose
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.workload import Workload
from lmarch.config import Config, digest
from lmarch.data.feed import Feed
from lmarch.data.loader import Loader, sequential_batches
from lmarch.data.packing import Rows, pack
from lmarch.data.plan import FeedPlan, make_plan
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.registry import format_variant
from lmarch.training.optimizers import OPTIMIZERS
from lmarch.training.step import Program, make_program
from lmarch.training.workdir import run_record, run_tokenizer

ROWS_COUNTED = 256


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is trained, on what, and the record of it."""

    config: Config
    folder: Path
    programs: Mapping[int, Program]  # by the number of steps done before they begin
    batches: "Batches"
    record: dict[str, Any]  # what run.json says of the run as it starts

    @property
    def program(self) -> Program:
        """The first one; all have the same state."""
        return self.programs[0]


def check_without_text(config: Config) -> FeedPlan:
    """The plan of the text, after all checks that need neither text nor a device.

    Raises:
      UserError: settings of the optimizer, the text or the positions that cannot be.
    """
    OPTIMIZERS.build(config.train.optimizer)
    plan = make_plan(config)
    check_positions(plan)
    return plan


def set_up(config: Config, folder: Path) -> Setup:
    """Read and pack the text, define the model, make its programs; nothing is compiled.

    Raises:
      UserError: anything that a user can mend.
    """
    plan = check_without_text(config)
    tokenizer = run_tokenizer(folder, config)
    vocab_size = plan.vocabulary_size(tokenizer)
    rows, validation_rows = (
        pack(config.data, split, plan.text_length, tokenizer, plan.budget) for split in ("train", "validation")
    )
    starts = [0, *(phase["step"] for phase in config.train.position_schedule)]
    definitions = {start: ModelDefinition(config.model_at(start + 1), vocab_size) for start in starts}
    programs = {start: make_program(config, definition) for start, definition in definitions.items()}
    batches = Batches(rows, validation_rows, plan.feed(tokenizer), plan.feed(tokenizer, "validation"), config)
    record = {
        **run_record(config, folder),
        **_sizes(plan, definitions[0], tokenizer, rows),
        "remarks": [*rows.remarks, *validation_rows.remarks],
        "validation_text": digest([validation_rows.fingerprint, config.train.eval_rows]),
        **_counts(config, definitions[0], batches),
    }
    if len(definitions) > 1:
        record["position"] = ", then ".join(f"{made.method} from step {at}" for at, made in definitions.items())
    return Setup(config, folder, programs, batches, record)


class Batches:
    """Where the loop gets its batches from: training rows by step, validation rows always the same."""

    def __init__(self, rows: Rows, validation_rows: Rows, feed: Feed, validation_feed: Feed, config: Config) -> None:
        data, process = config.data, {"process_index": jax.process_index(), "process_count": jax.process_count()}
        self.training = Loader(rows, data.batch_rows, data.seed, feed, **process)
        self._validation = lambda: sequential_batches(
            validation_rows, data.batch_rows, validation_feed, limit=config.train.eval_rows, **process
        )

    def validation(self) -> Iterator[Batch[np.ndarray]]:
        return self._validation()


def check_positions(plan: FeedPlan) -> None:
    """Refuses what the positions of any phase of training cannot do, before any text is read."""
    config, limits, reach = plan.config, plan.limits, plan.reach
    if config.data.position_sampler and reach < max(limits):
        given = format_variant(config.data.position_sampler)
        raise UserError(f"config.data.position_sampler={given} has too few positions for rows of {max(limits)}")
    before: ModelDefinition | None = None
    for start in (0, *(phase["step"] for phase in config.train.position_schedule)):
        made = ModelDefinition(config.model_at(start + 1), vocab_size=2)  # no shape of a position depends on it
        for spec, length in made.sites_at(reach if config.data.position_sampler else limits[-1], max(reach, limits[0])):
            spec.check_length(length)
        if before is not None:
            where = f"config.train.position_schedule at step {start}"
            if made.all_specs == before.all_specs:
                raise UserError(f"{where} changes nothing: every layer names its own position, or has this one already")
            if made.shapes != before.shapes:
                raise UserError(f"{where} changes what the model learns: from {before.method} to {made.method}")
        before = made


def _sizes(plan: FeedPlan, definition: ModelDefinition, tokenizer: Tokenizer, rows: Rows) -> dict[str, Any]:
    config = plan.config
    return {
        "parameters": definition.num_parameters,
        "vocab_size": definition.vocab_size,
        "objective": format_variant(config.objective),
        "position": definition.method,
        "out_of_design": definition.out_of_design(
            plan.limits[-1],
            source_length=config.row_length,
            seen=max(plan.reach, config.model.trained_length),
        ),
        "attention": ", ".join(dict.fromkeys(_implementation(config, spec) for spec in definition.specs)),
        "documents": rows.num_documents,
        "tokens": rows.num_tokens,
        "rows": len(rows.tokens),
        "longest_position": plan.reach - 1,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "rows_fingerprint": rows.fingerprint,
    }


def _implementation(config: Config, spec: AttentionSpec) -> str:
    """Return what a layer's attention is computed by in training; raise UserError for what the config asks for in vain."""
    length, dtype = config.row_length, config.model.compute_dtype
    return choose(config.model.attention, Workload(spec=spec, queries=length, keys=length, dtype=dtype, packed=True))


def _counts(config: Config, definition: ModelDefinition, batches: Batches) -> dict[str, Any]:
    """What the run costs and teaches: tokens without padding, scored ones, FLOPs; estimated from its first rows."""
    count = -(-ROWS_COUNTED // config.data.batch_rows)
    first = [batches.training.batch(n) for n in range(count)]
    rows, tokens, source, scored, flops = count * config.data.batch_rows, 0, 0, 0.0, 0.0
    for batch in first:
        scored += float(batch.weights.sum())
        sources = np.full_like(batch.segment_ids, -1) if batch.source_segment_ids is None else batch.source_segment_ids
        prefixes = np.zeros_like(batch.segment_ids) if batch.prefix_lengths is None else batch.prefix_lengths
        for ids, source_ids, prefix in zip(batch.segment_ids, sources, prefixes, strict=True):
            for document in range(max(ids.max(), source_ids.max()) + 1):
                own, given = (ids == document).sum(), (source_ids == document).sum()
                both_ways = min(prefix[ids == document].max(initial=0), own)
                flops += definition.training_flops(int(own), prefix=int(both_ways), source=int(given))
                tokens, source = tokens + int(own), source + int(given)
    total = config.total_steps * config.data.batch_rows
    return {
        "tokens_per_row": tokens / rows,
        "source_tokens_per_row": source / rows,
        "loss_tokens_per_row": scored / rows,
        "read_tokens": total * (tokens + source) / rows,
        "loss_tokens": total * scored / rows,
        "training_flops": total * flops / rows,
        "flops_per_token": flops / rows / config.row_length,
    }
