"""Reading one long row, by attention implementation and position method: tokens/s of a forward pass in bfloat16."""

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_check.compiling import Program, compiled, require_memory, wait
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.record import Figures, Record, SkippedError
from lmarch.attention.implementations import choose
from lmarch.attention.workload import Workload
from lmarch.config import from_dict
from lmarch.models.definition import ModelDefinition

Case = tuple[str, str]


def begin(record: Record, plan: Plan) -> Callable[[], None]:
    """A row a case and length; a longer text is read where a shorter one says that it fits and when it ends."""
    definitions = {case: _definition(plan, *case) for case in plan.prefill.cases}
    shortest, *longer = plan.prefill.lengths
    programs = _compiled(record, definitions, shortest)

    def measure() -> None:
        params = next(iter(definitions.values())).init(jax.random.key(0))
        known = _read(record, definitions, params, shortest, programs, {})
        for length in longer:
            beyond = {case: why for case in definitions if (why := _beyond(plan, length, known[case]))}
            possible = {case: made for case, made in definitions.items() if case not in beyond}
            known = _read(record, definitions, params, length, _compiled(record, possible, length), beyond)

    return measure


def _compiled(
    record: Record, definitions: Mapping[Case, ModelDefinition], length: int
) -> dict[Case, "Future[Program]"]:
    return {case: compiled(record, lambda made=made: _lower(made, length)) for case, made in definitions.items()}


def _read(
    record: Record,
    definitions: Mapping[Case, ModelDefinition],
    params: Any,
    length: int,
    programs: "Mapping[Case, Future[Program]]",
    beyond: Mapping[Case, str],
) -> dict[Case, Figures]:
    """Of every case its figures, none where it was not read; `beyond` says of some why not."""
    wait(record)

    def measure(case: Case) -> Figures:
        if case in beyond:
            raise SkippedError(beyond[case])
        return _measure(definitions[case], params, length, programs[case])

    return {
        case: record.measure("prefill", f"{', '.join(case)}, {length} tokens", functools.partial(measure, case))
        for case in definitions
    }


def _definition(plan: Plan, position: str, attention: str) -> ModelDefinition:
    model = plan.model.config(plan.prefill.trained_length, position, attention)
    return ModelDefinition(from_dict({"model": model, "train": {"steps": 1}}).model, plan.model.vocab_size)


def _beyond(plan: Plan, length: int, figures: Figures) -> str | None:
    """Why a length is not tried: attention grows with its square, and so does the dense product's memory."""
    if not figures:
        return "nothing is known of a shorter text"
    shorter = figures["tokens"]
    grown = (length / shorter) ** 2
    if figures["attention"] != "fused" and (seconds := figures["seconds"] * grown) > plan.prefill.longest_seconds:
        return f"would take about {seconds:.0f} s, by {shorter} tokens"
    if figures["attention"] == "dense":
        try:
            require_memory(figures["memory_gib"] * grown)
        except SkippedError as reason:
            return f"{reason}, by {shorter} tokens"
    return None


def _tokens(definition: ModelDefinition, length: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, definition.vocab_size, (1, length)), jnp.int32)


def _lower(definition: ModelDefinition, length: int) -> Any:
    def forward(params: Any, tokens_BT: jax.Array) -> jax.Array:
        return definition.apply(params, tokens_BT, last=1)

    return jax.jit(forward).lower(definition.shapes, _tokens(definition, length))


def _measure(definition: ModelDefinition, params: Any, length: int, future: "Future[Program]") -> Figures:
    program = future.result()
    require_memory(program.memory_gib)
    tokens_BT, seconds = _tokens(definition, length), list[float]()
    while len(seconds) < 3 and sum(seconds) < 4:  # the first one loads the program: the best one counts
        began = time.perf_counter()
        logits_BTV = jax.block_until_ready(program.run(params, tokens_BT))
        seconds.append(time.perf_counter() - began)
    config = definition.config
    return {
        "tokens_per_second": length / min(seconds),
        "tokens": length,
        "seconds": min(seconds),
        "runs": len(seconds),
        "attention": choose(config.attention, Workload(definition.specs[0], length, length, config.compute_dtype)),
        "compile_seconds": program.compile_seconds,
        "memory_gib": program.memory_gib,
        "ok": bool(jnp.isfinite(logits_BTV).all()),
    }
