"""A run under way: the steps, and what is read, validated, saved and said between them."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np

from lmarch.durable import write_json
from lmarch.errors import UserError
from lmarch.objectives import Batch
from lmarch.registry import rounded
from lmarch.training.checkpoints import Checkpoints
from lmarch.training.executables import executable
from lmarch.training.interrupts import StopRequest
from lmarch.training.metrics import Display, MetricsWriter, Throughput
from lmarch.training.optimizers import Rates
from lmarch.training.setup import Setup
from lmarch.training.sharding import put_rows
from lmarch.training.step import Metrics, Program, State, Sums, cures, summary


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    steps: int
    exit_status: int  # 0, or 128 + the number of the signal that stopped it
    validation_bits_per_byte: float | None  # None if this call did not validate
    given_up: bool = False  # `go_on` said so


# (step, validation bits per byte) -> whether to go on
GoOn = Callable[[int, float], bool]


# Beside a checkpoint, what must be the same for a run to go on.
FINGERPRINTS = ("fingerprint", "tokenizer_fingerprint", "rows_fingerprint")


class Run:
    """What a run writes to, and what it has measured."""

    def __init__(self, setup: Setup, checkpoints: Checkpoints, start: int) -> None:
        self.config, self.folder, self.checkpoints = setup.config, setup.folder, checkpoints
        self.programs, self.batches = setup.programs, setup.batches
        self.record, self.start = setup.record, start
        self.writer = MetricsWriter(self.folder, start)
        self.throughput = Throughput(self.record["flops_per_token"])
        self.display = Display(self.config.total_steps, start)
        self.validated: float | None = None
        self.given_up = False
        self.began = time.perf_counter()

    def __enter__(self) -> "Run":
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
            + "".join(f"\nnote: {remark}" for remark in record["remarks"])
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

    def steps(self, state: State, stop: StopRequest, go_on: GoOn) -> int:
        """The loop. Returns the number of steps done; the state after them is saved."""
        config, total = self.config, self.config.total_steps
        mesh, rates = self.programs[0].mesh, self.programs[0].rates
        step, saved, unread = self.start, self.start, None
        with contextlib.closing(
            self.batches.training.iterate(self.start, config.data.prefetch, config.data.feeding_processes)
        ) as training:
            while step < total and stop.signal is None and not self.given_up:
                asked = time.perf_counter()
                batch = next(training)
                waited = time.perf_counter() - asked
                if step == self.start or step in self.programs:
                    compiled = self._compile(step, state, batch)

                state, metrics = compiled(state, put_rows(batch, mesh), rates.at(step))
                step += 1

                self._read(unread)
                unread = _Unread(step, metrics, waited)
                validate = step == total or _due(step, config.steps("eval"))
                if validate:
                    self._read(unread)
                    unread = None
                    self._validate(step, state)
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
    ) -> Callable[[State, Batch[jax.Array], Rates], tuple[State, Metrics]]:
        began, program = time.perf_counter(), self._program(step + 1)
        compiled = executable(program.step.lower(state, put_rows(batch, program.mesh), program.rates.at(step)))
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
                f"{self.checkpoints.last_good()}; try {cures(self.config)}"
            )
        if _due(step, self.config.train.log_steps) or step == self.config.total_steps:
            values = {name: float(value) for name, value in metrics.items() if name != "finite"}
            rates = self.throughput.read()
            self.writer.write(step, values | rates)
            self.display.advance(step, values["loss"], values["bits_per_byte"], rates["tokens_per_second"])

    def _validate(self, step: int, state: State) -> None:
        began = time.perf_counter()
        sums = validation_sums(self._program(step), state["params"], self.batches.validation())
        values = {f"validation_{name}": float(value) for name, value in summary(sums).items()}
        if "average" in state:
            of_average = validation_sums(self._program(step), state["average"], self.batches.validation())
            values |= {f"validation_average_{name}": float(value) for name, value in summary(of_average).items()}
        self.validated = values["validation_bits_per_byte"]
        self.writer.write(step, {**values, "validation_seconds": time.perf_counter() - began})
        average = values.get("validation_average_bits_per_byte")
        beside = "" if average is None else f", of the averaged weights {average:.4f}"
        self.display.say(f"step {step:>6}  validation {self.validated:.4f} bits/byte{beside}")
        self.throughput.restart()

    def _save(self, step: int, state: State, validated: bool) -> None:
        self.writer.keep()
        beside = {"config": self.config.to_dict(), **{name: self.record[name] for name in FINGERPRINTS}}
        self.checkpoints.save(step, state, beside, self.validated if validated else None)


class _Unread(NamedTuple):
    """Metrics that may still be on their way from the device."""

    step: int
    metrics: Metrics
    waited: float  # seconds for the batch


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def validation_sums(program: Program, params: Any, batches: Iterable[Batch[np.ndarray]]) -> Sums:
    """Sums over the batches in float64, the same whatever their number or the mesh."""
    parts = [jax.device_get(program.evaluate(params, put_rows(batch, program.mesh))) for batch in batches]
    return Sums(*(np.sum(np.asarray(values, np.float64)) for values in zip(*parts, strict=True)))
