"""A training step of a decoder, by attention implementation and position method: tokens/s, MFU, memory, compilation."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_check.compiling import Program, compiled, require_memory, wait
from benchmarks.gpu_check.plan import ModelPlan, Plan, Step
from benchmarks.gpu_check.record import Figures, Record, SkippedError
from lmarch.attention.implementations import choose
from lmarch.attention.workload import Workload
from lmarch.config import Config, from_dict
from lmarch.data.assembly import assemble
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.training.metrics import peak_flops
from lmarch.training.sharding import put_rows
from lmarch.training.step import State, make_program

MOST_STEPS = 10


def config_of(model: ModelPlan, step: Step) -> Config:
    return from_dict(
        {
            "data": {"batch_rows": step.rows * jax.device_count()},
            "model": model.config(step.length, step.position, step.attention),
            "train": {"steps": 1000, "learning_rate": 6e-4},
        }
    )


def begin(record: Record, plan: Plan) -> Callable[[], None]:
    """A row a step of the plan, and one for what a config cannot ask for."""
    programs = {step: compiled(record, lambda step=step: lower(plan.model, step)) for step in plan.steps}

    def measure() -> None:
        wait(record)
        kept = _State()
        for step in plan.steps:
            record.measure("training", _name(step), lambda step=step: _measure(plan, step, programs[step], kept))
        longest = plan.steps[-1]
        record.measure("training", "auto in packed rows", lambda: _picked(plan.model, longest))
        record.measure("training", "fused", lambda: _fused(plan.model, longest))

    return measure


def _picked(model: ModelPlan, step: Step) -> Figures:
    spec = ModelDefinition(config_of(model, step).model, model.vocab_size).specs[0]
    return {
        "length": step.length,
        "picks": choose("auto", Workload(spec, step.length, step.length, "bfloat16", packed=True)),
    }


def _fused(model: ModelPlan, step: Step) -> Figures:
    spec = ModelDefinition(config_of(model, step).model, model.vocab_size).specs[0]
    choose("fused", Workload(spec, step.length, step.length, "bfloat16", packed=True))  # UserError, which the row shows
    raise SkippedError("it serves the packed rows of training now: measure it")


class _State:
    """One training state, passed from program to program: every one has the same parameters."""

    def __init__(self) -> None:
        self._state: State | None = None

    def take(self, config: Config, definition: ModelDefinition) -> State:
        """A step gives its buffers away, so that a state is taken, and is gone if the step fails."""
        state, self._state = self._state, None
        return jax.block_until_ready(make_program(config, definition).init()) if state is None else state

    def put(self, state: State) -> None:
        self._state = state


def _name(step: Step) -> str:
    rows = ", plain rows" if step.plain else ""
    return f"{step.position}, {step.attention}{rows}, {step.length} tokens"


def _batch(model: ModelPlan, step: Step) -> Batch[Any]:
    """Random tokens; a document a row. Plain rows: what the model then takes for granted is left out."""
    rng = np.random.default_rng(0)
    shape = (step.rows * jax.device_count(), step.length + 1)
    tokens = rng.integers(0, model.vocab_size, shape)
    made = assemble(tokens, np.zeros(shape, int), np.ones(model.vocab_size, int), True, True)
    return made._replace(positions=None, segment_ids=None) if step.plain else made


def lower(model: ModelPlan, step: Step) -> Any:
    """The step, traced for the device; what it takes is the state, a batch and rates."""
    config = config_of(model, step)
    program = make_program(config, ModelDefinition(config.model, model.vocab_size))
    batch = put_rows(_batch(model, step), program.mesh)
    return program.step.lower(program.abstract_state, batch, program.rates.at(0))


def _measure(plan: Plan, step: Step, future: "Future[Program]", kept: _State) -> Figures:
    program = future.result()
    require_memory(program.memory_gib)
    config = config_of(plan.model, step)
    definition = ModelDefinition(config.model, plan.model.vocab_size)
    made = make_program(config, definition)
    batch, rates = put_rows(_batch(plan.model, step), made.mesh), made.rates.at(0)
    state = kept.take(config, definition)
    state, metrics = program.run(state, batch, rates)
    jax.block_until_ready(metrics)
    seconds: list[float] = []
    while not seconds or (len(seconds) < MOST_STEPS and sum(seconds) < plan.seconds_a_step):
        began = time.perf_counter()
        state, metrics = program.run(state, batch, rates)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    kept.put(state)

    median, tokens = statistics.median(seconds), config.tokens_per_step
    flops, peak = definition.training_flops(step.length) / step.length, peak_flops()
    return {
        "tokens_per_second": tokens / median,
        "mfu": tokens / median * flops / peak if peak else None,
        "step_ms": median * 1e3,
        "steps": len(seconds),
        "rows": config.data.batch_rows,
        "attention": choose(
            step.attention,
            Workload(
                spec=definition.specs[0],
                queries=step.length,
                keys=step.length,
                dtype=config.model.compute_dtype,
                packed=not step.plain,
            ),
        ),
        "compile_seconds": program.compile_seconds,
        "trace_seconds": program.trace_seconds,
        "memory_gib": program.memory_gib,
        "parameters": definition.num_parameters,
        "flops_per_token": flops,
        "loss": float(metrics["loss"]),
        "ok": bool(metrics["finite"]),
    }
