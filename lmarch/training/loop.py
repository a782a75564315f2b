"""Training, as a flat sequence. The order of operations is part of the contract:

  open the workdir -> text, rows -> model, mesh (all checks) -> restore or initialise -> compile
  -> per step: batch -> step -> read the step before -> log -> validate -> save -> stop if asked

Nothing waits for the step in flight except a log line of an earlier step, a validation or a save. Every number in
`metrics.jsonl` but the timings is a function of the config alone, so an interrupted run that goes on leaves the same
file as one that was never interrupted.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.attention.attend import choose
from lmarch.config import Config, digest
from lmarch.data.feed import Feed
from lmarch.data.loader import Loader, sequential_batches
from lmarch.data.packing import Rows, pack
from lmarch.data.plan import FeedPlan, make_plan
from lmarch.data.tokenizers import Tokenizer, load_tokenizer
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.registry import format_variant, rounded
from lmarch.training.checkpoints import Checkpoints, read_parameters
from lmarch.training.interrupts import StopRequest
from lmarch.training.metrics import Display, MetricsWriter, Throughput
from lmarch.training.optimizers import OPTIMIZERS
from lmarch.training.sharding import put_rows
from lmarch.training.step import Metrics, Program, State, Sums, make_program, summary
from lmarch.training.workdir import ancestors, complete_record, open_workdir, run_record, write_config, write_json


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    steps: int
    exit_status: int  # 0, or 128 + the number of the signal that stopped it
    validation_bits_per_byte: float | None  # None if this call did not validate
    given_up: bool = False  # `go_on` said so


# (step, validation bits per byte) -> whether to go on
GoOn = Callable[[int, float], bool]


def train(config: Config, workdir: str | Path, go_on: GoOn = lambda step, bits: True) -> Outcome:
    """Trains, or goes on with, the run of `config` in `workdir`.

    Args:
      go_on: asked after every validation but the last; a run that is given up is saved first.

    Raises:
      UserError: anything a user can mend, before compilation where that is possible; a loss that is not finite, with
        the step and the last good checkpoint.
    """
    if jax.process_count() > 1:
        raise UserError("training on several processes is not supported yet: start one process that sees all devices")
    folder = open_workdir(workdir, config)
    OPTIMIZERS.build(config.train.optimizer)  # its mistakes, and those of the next line, need no text to be found
    plan = make_plan(config)
    check_positions(plan)
    tokenizer = load_tokenizer(config.data.tokenizer)
    feed, vocab_size = plan.feed(tokenizer), plan.vocabulary_size(tokenizer)
    validation_feed = plan.feed(tokenizer, "validation")
    rows, validation_rows = (
        pack(config.data, split, plan.text_length, tokenizer, plan.budget) for split in ("train", "validation")
    )
    starts = [0, *(phase["step"] for phase in config.train.position_schedule)]
    definitions = {start: ModelDefinition(config.model_at(start + 1), vocab_size) for start in starts}
    programs = {start: make_program(config, definition) for start, definition in definitions.items()}
    program, definition = programs[0], definitions[0]
    batches = Batches(rows, validation_rows, feed, validation_feed, config)
    record = {
        **run_record(config, folder),
        **_sizes(plan, definition, tokenizer, rows),
        "validation_text": digest([validation_rows.fingerprint, config.train.eval_rows]),
        **_counts(config, definition, batches),
    }
    if len(definitions) > 1:
        record["position"] = ", then ".join(f"{made.method} from step {at}" for at, made in definitions.items())

    checkpoints = Checkpoints(folder, config.train.keep_checkpoints)
    restored = checkpoints.restore(program.abstract_state)
    if restored is None:
        step, state = 0, program.init()
        if config.train.start_from is not None:
            state["params"] = _weights_of(Path(config.train.start_from), program, record)
            if "average" in state:
                state["average"] = jax.tree.map(jnp.copy, state["params"])  # both are donated
    else:
        step, state, beside = restored
        _require_same_data(beside, record)
    if step >= config.total_steps:
        print(f"{folder} is already trained for {step} steps; evaluate it with lmarch eval --workdir={folder}")
        complete_record(folder, config)
        return Outcome(step, 0, None)
    try:
        write_config(folder, config)
        with StopRequest() as stop, _Run(config, folder, definition, programs, checkpoints, record, start=step) as run:
            step = run.steps(state, batches, stop, go_on)
            return run.outcome(step, stop.exit_status)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); {checkpoints.last_good()}") from error


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


class _Run:
    """A run under way: what it writes to, and what it has measured."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        definition: ModelDefinition,
        programs: dict[int, Program],
        checkpoints: Checkpoints,
        record: dict[str, Any],
        start: int,
    ) -> None:
        self.config, self.folder, self.checkpoints = config, folder, checkpoints
        self.programs = programs  # by the number of steps done before they begin
        self.record, self.start = record, start
        self.writer = MetricsWriter(folder, start)
        self.throughput = Throughput(record["flops_per_token"])
        self.display = Display(config.total_steps, start)
        self.validated: float | None = None
        self.given_up = False
        self.began = time.perf_counter()

    def __enter__(self) -> "_Run":
        config, record = self.config, self.record
        write_json(self.folder / "run.json", {**record, "status": "running"})
        self.display.say(
            f"{self.folder}: {config.model.architecture}, {record['parameters']:,} parameters, position "
            f"{rounded(record['position'])}, {record['attention']} attention, {record['device']}\n"
            f"{config.data.corpus}: {record['documents']} documents, {record['tokens']:,} tokens in {record['rows']:,} "
            f"rows of {config.row_length}; {config.total_steps} steps of {config.tokens_per_step:,} tokens\n"
            f"{record['objective']}: {record['loss_tokens_per_row']:.0f} scored of "
            f"{record['tokens_per_row'] + record['source_tokens_per_row']:.0f} tokens a row; in all "
            f"{record['loss_tokens']:.3g} scored tokens and {record['training_flops']:.3g} FLOPs"
            + (f"\nnote: {record['out_of_design']}" if record["out_of_design"] else "")
            + (f"\ngoing on from checkpoint {self.start}" if self.start else "")
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.close()
        with (
            contextlib.suppress(OSError) if error else contextlib.nullcontext()
        ):  # the first error is the one to report
            self.writer.close()
            if error:
                write_json(self.folder / "run.json", {**self.record, "status": f"failed: {error}"})

    def steps(self, state: State, batches: Batches, stop: StopRequest, go_on: GoOn) -> int:
        """The loop. Returns the number of steps done; the state after them is saved."""
        config, total, mesh = self.config, self.config.total_steps, self.programs[0].mesh
        step, saved, unread = self.start, self.start, None
        with contextlib.closing(
            batches.training.iterate(self.start, config.data.prefetch, config.data.feeding_processes)
        ) as training:
            while step < total and stop.signal is None and not self.given_up:
                asked = time.perf_counter()
                batch = next(training)
                waited = time.perf_counter() - asked
                if step == self.start or step in self.programs:
                    compiled = self._compile(step, state, batch)

                state, metrics = compiled(state, put_rows(batch, mesh))
                step += 1

                self._read(unread)
                unread = _Unread(step, metrics, waited)
                validate = step == total or _due(step, config.steps("eval"))
                if validate:
                    self._read(unread)
                    unread = None
                    self._validate(step, state, batches)
                    assert self.validated is not None
                    self.given_up = step < total and not go_on(step, self.validated)
                if step == total or _due(step, config.steps("checkpoint")):
                    self._read(unread)
                    unread = None
                    self._save(step, state, validated=validate)
                    saved = step
        if saved < step:  # asked to stop, or given up
            self._read(unread)
            self._save(step, state, validated=unread is None)
        self.checkpoints.wait()
        return step

    def outcome(self, step: int, exit_status: int) -> Outcome:
        status = "given up" if self.given_up else "finished"
        ended = {
            "status": status if exit_status == 0 else f"stopped with exit status {exit_status}",
            "steps": step,
            "trained_tokens": step * self.config.tokens_per_step,
            "seconds": time.perf_counter() - self.began,  # of this call, from step `resumed_at` on
            "resumed_at": self.start,
            "validation_bits_per_byte": self.validated,
        }
        write_json(self.folder / "run.json", {**self.record, **ended})
        return Outcome(step, exit_status, self.validated, self.given_up)

    def _program(self, step: int) -> Program:
        """The one that trains step number `step`, counted from 1."""
        return self.programs[max(start for start in self.programs if start < step)]

    def _compile(
        self, step: int, state: State, batch: Batch[np.ndarray]
    ) -> Callable[[State, Batch[jax.Array]], tuple[State, Metrics]]:
        began, program = time.perf_counter(), self._program(step + 1)
        compiled = program.step.lower(state, put_rows(batch, program.mesh)).compile()
        self.record["compile_seconds"] = time.perf_counter() - began
        self.writer.write(step, {"compile_seconds": self.record["compile_seconds"]})
        self.throughput.restart()
        return compiled

    def _read(self, unread: "_Unread | None") -> None:
        """Fetches the metrics of a step: stops a run that is not finite, logs every so often."""
        if unread is None:
            return
        step, metrics = unread.step, jax.device_get(unread.metrics)
        self.throughput.add(self.config.tokens_per_step, unread.waited)
        if not metrics["finite"]:
            self.checkpoints.wait()
            raise UserError(
                f"loss {float(metrics['loss'])} with gradient norm {float(metrics['grad_norm'])} at step {step}: stopped; "
                f"{self.checkpoints.last_good()}; try a lower train.learning_rate or a longer warm-up"
            )
        if _due(step, self.config.train.log_steps) or step == self.config.total_steps:
            values = {name: float(value) for name, value in metrics.items() if name != "finite"}
            rates = self.throughput.read()
            self.writer.write(step, values | rates)
            self.display.advance(step, values["loss"], values["bits_per_byte"], rates["tokens_per_second"])

    def _validate(self, step: int, state: State, batches: Batches) -> None:
        began = time.perf_counter()
        sums = validation_sums(self._program(step), state["params"], batches.validation())
        values = {f"validation_{name}": float(value) for name, value in summary(sums).items()}
        if "average" in state:
            of_average = validation_sums(self._program(step), state["average"], batches.validation())
            values |= {f"validation_average_{name}": float(value) for name, value in summary(of_average).items()}
        self.validated = values["validation_bits_per_byte"]
        self.writer.write(step, {**values, "validation_seconds": time.perf_counter() - began})
        average = values.get("validation_average_bits_per_byte")
        beside = "" if average is None else f", of the averaged weights {average:.4f}"
        self.display.say(f"step {step:>6}  validation {self.validated:.4f} bits/byte{beside}")
        self.throughput.restart()

    def _save(self, step: int, state: State, validated: bool) -> None:
        beside = {"config": self.config.to_dict(), **{name: self.record[name] for name in _FINGERPRINTS}}
        self.checkpoints.save(step, state, beside, self.validated if validated else None)


class _Unread(NamedTuple):
    """Metrics that may still be on their way from the device."""

    step: int
    metrics: Metrics
    waited: float  # seconds for the batch


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
            if made.sites == before.sites:
                raise UserError(f"{where} changes nothing: every layer names its own position, or has this one already")
            if made.shapes != before.shapes:
                raise UserError(f"{where} changes what the model learns: from {before.method} to {made.method}")
        before = made


ROWS_COUNTED = 256

# What must be the same for a run to go on.
_FINGERPRINTS = ("fingerprint", "tokenizer_fingerprint", "rows_fingerprint")


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
        "attention": choose(
            config.model.attention,
            definition.specs[0],
            config.row_length,
            packed=True,
            dtype=config.model.compute_dtype,
        ),
        "documents": rows.num_documents,
        "tokens": rows.num_tokens,
        "rows": len(rows.tokens),
        "longest_position": plan.reach - 1,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "rows_fingerprint": rows.fingerprint,
    }


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


def _weights_of(folder: Path, program: Program, record: dict[str, Any]) -> Any:
    """The weights of another run's last checkpoint, where this one's are; noted in the record."""
    shapes = program.abstract_state["params"]
    step, params, beside = read_parameters(folder, shapes, None)
    if beside["tokenizer_fingerprint"] != record["tokenizer_fingerprint"]:
        raise UserError(
            f"config.train.start_from={folder} was trained with another tokenizer: its weights mean other text"
        )
    record["started_from"] = f"{folder} at step {step}, config {beside['fingerprint']}"
    record["ancestors"] = ancestors(folder)
    return jax.device_put(params, jax.tree.map(lambda x: x.sharding, shapes))


def _require_same_data(beside: dict[str, Any], record: dict[str, Any]) -> None:
    for name in _FINGERPRINTS:
        if beside.get(name) != record[name]:
            what = {"fingerprint": "config"}.get(name, name.removesuffix("_fingerprint"))
            raise UserError(
                f"the checkpoint was trained with another {what} ({beside.get(name)}, now {record[name]}): bring the old "
                "one back, or choose another --workdir"
            )


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def validation_sums(program: Program, params: Any, batches: Iterable[Batch[np.ndarray]]) -> Sums:
    """Sums over the batches in float64, the same whatever their number or the mesh."""
    parts = [jax.device_get(program.evaluate(params, put_rows(batch, program.mesh))) for batch in batches]
    return Sums(*(np.sum(np.asarray(values, np.float64)) for values in zip(*parts, strict=True)))
