"""Scoring: of every target its negative log-likelihood, and whether it was the most likely token."""

import contextlib
import dataclasses
import time
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.evaluation.items import Items
from lmarch.loading import Model
from lmarch.models.text import Text

# Text windows and problems of all kinds share one compiled program a method and length: batches are as large whatever is
# scored, and so many of the last positions are computed, of which the targets are kept.
TOKENS_PER_BATCH = 16_384
ROWS_PER_BATCH = 32
POSITIONS = 32


@dataclasses.dataclass(frozen=True)
class Scores:
    nll_NS: np.ndarray  # float32 nats
    hits_NS: np.ndarray  # bool: the target was the most likely token, and its likelihood finite
    tokens_per_second: float  # fed tokens in the median batch, without compilation

    def of_rows(self, chosen_N: np.ndarray) -> "Scores":
        """Those of some of the rows."""
        return Scores(self.nll_NS[chosen_N], self.hits_NS[chosen_N], self.tokens_per_second)


class OutOfMemory(Exception):
    """What was asked for does not fit the device."""


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raises what a device says of too little memory as OutOfMemory, and everything else as it is."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(str(error).splitlines()[0]) from error


class Program(NamedTuple):
    """What is compiled, once for all items of one shape."""

    model: Model
    rows: int  # of a batch
    length: int
    targets: int  # at the end of a row
    given: int | None  # of its tokens, as in Items; none: a causal decoder


def program_for(model: Model, items: Items, rows: int | None = None) -> Program:
    """The program that scores the items.

    Args:
      rows: of a batch; none: as many as there should be.
    """
    length = items.length
    given = None if model.definition.config.architecture == "causal_decoder" else items.given
    rows = rows or min(ROWS_PER_BATCH, len(items.rows_NT), max(1, TOKENS_PER_BATCH // length))
    computed = -(-items.targets // POSITIONS) * POSITIONS
    return Program(model, rows, length, min(computed, length if given is None else length + 1 - given), given)


def score(model: Model, items: Items, report: Callable[[int], None]) -> Scores:
    """Feeds each row and scores its targets; in smaller batches where a device has no room.

    Landmarks come on top, in models that read them: `length` and the speed count tokens of the text.

    Args:
      report: called with the number of rows done so far.

    Raises:
      OutOfMemory: one row is too much.
    """
    batch = program_for(model, items).rows
    while True:
        try:
            with memory_errors():
                return _in_batches(model, items, batch, report)
        except OutOfMemory:
            if batch == 1:
                raise
            batch = max(1, batch // 4)


def _in_batches(model: Model, items: Items, batch: int, report: Callable[[int], None]) -> Scores:
    rows, length = items.rows_NT, items.length
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch, axis=0)])
    program = program_for(model, items, batch)
    positions = _positions(model, len(padded), length, program.given, items.seed)
    run = compiled(program)
    batches, seconds = [], []
    for start in range(0, len(padded), batch):
        cut = slice(start, start + batch)
        placed = {name: values[cut] for name, values in positions.items()}
        began = time.perf_counter()
        batches.append(jax.device_get(run(model.params, padded[cut], placed)))
        seconds.append(time.perf_counter() - began)
        report(min(start + batch, len(rows)))
    rate = batch * length / float(np.median(seconds))
    nll_NS, hits_NS = (np.concatenate(parts)[: len(rows), -items.targets :] for parts in zip(*batches, strict=True))
    return Scores(nll_NS, hits_NS, rate)


# Of every model that is in use, by shapes. A process that evaluates one model after the other keeps no weights of earlier ones.
_COMPILED: "weakref.WeakKeyDictionary[Model, dict[tuple, jax.stages.Compiled]]" = weakref.WeakKeyDictionary()


def compiled(program: Program) -> jax.stages.Compiled:
    """(params, rows [B, W + 1], sampled positions) -> nats and hits [B, S] of the last S tokens."""
    known, (_, *shape) = _COMPILED.setdefault(program.model, {}), program
    if tuple(shape) not in known:
        known[tuple(shape)] = _compile(program)
    return known[tuple(shape)]


def _compile(program: Program) -> jax.stages.Compiled:
    model, batch, length, targets, given = program
    params, model = model.params, model.without_weights

    def scored(params: dict, rows_BT: jax.Array, positions: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits_BSV = _target_logits(model, params, rows_BT, positions, given, targets)
        targets_BS = rows_BT[:, -targets:]
        picked_BS = jnp.take_along_axis(logits_BSV, targets_BS[..., None], axis=-1)[..., 0]
        nll_BS = jax.nn.logsumexp(logits_BSV, axis=-1) - picked_BS
        return nll_BS, (jnp.argmax(logits_BSV, axis=-1) == targets_BS) & jnp.isfinite(nll_BS)

    rows = jax.ShapeDtypeStruct((batch, length + 1), jnp.int32)
    positions = _positions(model, batch, length, given, seed=0)
    return jax.jit(scored).lower(params, rows, positions).compile()


def _positions(model: Model, rows: int, length: int, given: int | None, seed: int) -> dict[str, np.ndarray]:
    """Sampled positions of the text, and of the source; empty for a model that counts."""
    if model.sampled_reach is None:
        return {}
    if not model.definition.is_encoder_decoder:
        return {"text": model.sampled_positions([length] * rows, seed)}
    assert given is not None
    text = [length + 1 - given] * rows
    return {"source": model.sampled_positions([given] * rows, seed), "text": model.sampled_positions(text, seed + 1)}


def _target_logits(
    model: Model, params: dict, rows_BT: jax.Array, positions: dict[str, jax.Array], given: int | None, targets: int
) -> jax.Array:
    """[B, targets, V]: what each architecture says of the last tokens of the same text."""
    definition = model.definition
    where_BT = positions.get("text")
    if definition.is_encoder_decoder:
        assert given is not None
        source = Text(rows_BT[:, :given], positions.get("source"))
        return definition.apply(params, model.shifted(rows_BT[:, given:]), where_BT, source=source, last=targets)
    if model.landmarks is not None:
        return model.landmarks.logits(definition.apply, params, rows_BT[:, :-1], last=targets)
    prefix = None
    if definition.config.architecture == "prefix_decoder":
        assert given is not None
        prefix = jnp.asarray(given, jnp.int32)
    return definition.apply(params, rows_BT[:, :-1], where_BT, prefix_lengths_BT=prefix, last=targets)
