"""Reading one long row, by attention implementation and position method: tokens/s of a forward pass in bfloat16."""

import time
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_check.compiling import Program, compiled, require_memory, wait
from benchmarks.gpu_check.plan import Plan
from benchmarks.gpu_check.record import Figures, Record, SkippedError
from lmarch.attention.attend import choose
from lmarch.config import from_dict
from lmarch.models.definition import ModelDefinition

Case = tuple[str, str]


def check(record: Record, plan: Plan) -> None:
    """A row a case and length; a longer text is read where a shorter one says that it fits and when it ends."""
    definitions = {case: _definition(plan, *case) for case in plan.prefill.cases}
    params = next(iter(definitions.values())).init(jax.random.key(0))
    before: dict[Case, Figures] = {}
    for length in plan.prefill.lengths:
        shortest = length == plan.prefill.lengths[0]
        why = {case: None if shortest else _beyond(plan, length, before.get(case)) for case in definitions}
        programs = {
            case: compiled(record, lambda case=case, length=length: _lower(definitions[case], params, length))
            for case in definitions
            if why[case] is None
        }
        wait(record, programs.values())
        for case in definitions:

            def measure(case: Case = case, length: int = length, why: str | None = why[case]) -> Figures:
                if why is not None:
                    raise SkippedError(why)
                return _measure(definitions[case], params, length, programs[case])

            before[case] = record.measure("prefill", f"{', '.join(case)}, {length} tokens", measure)


def _definition(plan: Plan, position: str, attention: str) -> ModelDefinition:
    model = plan.model.config(plan.prefill.trained_length, position, attention)
    return ModelDefinition(from_dict({"model": model, "train": {"steps": 1}}).model, plan.model.vocab_size)


def _beyond(plan: Plan, length: int, figures: Figures | None) -> str | None:
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


def _lower(definition: ModelDefinition, params: Any, length: int) -> Any:
    def forward(params: Any, tokens_BT: jax.Array) -> jax.Array:
        return definition.apply(params, tokens_BT, last=1)

    return jax.jit(forward).lower(params, _tokens(definition, length))


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
        "attention": choose(
            config.attention, definition.specs[0], length, packed=False, dtype=config.compute_dtype
        ),
        "compile_seconds": program.compile_seconds,
        "memory_gib": program.memory_gib,
        "ok": bool(jnp.isfinite(logits_BTV).all()),
    }
