"""Steps of training on one device, without a mesh or a loop: one program for all of them."""

from typing import Any

import jax
import numpy as np
from initialised import BYTES, parameters

from lmarch.config import Config
from lmarch.data.loader import Loader
from lmarch.data.packing import pack
from lmarch.data.plan import make_plan
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.training.optimizers import first_rates
from lmarch.training.step import initial_state, train_step

Batches = Batch[np.ndarray]


def definition(config: Config) -> ModelDefinition:
    return ModelDefinition(config.model, make_plan(config).vocabulary_size(BYTES))


def loader(config: Config, **processes: int) -> Loader:
    plan = make_plan(config)
    rows = pack(config.data, "train", plan.text_length, BYTES, plan.budget)
    return Loader(rows, config.data.batch_rows, config.data.seed, plan.feed(BYTES), **processes)


def batches(config: Config, count: int) -> Batches:
    """The first batches of a run, [count, rows, ...]."""
    reading = loader(config)
    made = [reading.batch(step) for step in range(count)]
    return jax.tree.map(lambda *rows: np.stack(rows), *made)


def again(batch: Batches, count: int) -> Batches:
    """The same batch so many times."""
    return jax.tree.map(lambda rows: np.broadcast_to(rows, (count, *rows.shape)), batch)


def steps(config: Config, made: ModelDefinition, batches: Batches) -> tuple[Any, dict[str, np.ndarray]]:
    """The parameters after one step on each of the batches, and the metrics of all steps, [count] each."""

    @jax.jit
    def run(params: Any, *of_steps: Any) -> Any:
        state = initial_state(config, made.axes, params)
        return jax.lax.scan(lambda state, given: train_step(config, made, state, *given), state, of_steps)

    rates = first_rates(config, len(batches.tokens))
    state, metrics = jax.device_get(run(parameters(made), batches, rates))
    return state["params"], metrics


def assert_learned_by_heart(config: Config, batch: Batches, count: int = 50) -> None:
    """The loss on one batch that is trained on again and again falls; everything stays finite."""
    params, metrics = steps(config, definition(config), again(batch, count))
    assert metrics["finite"].all()
    assert metrics["loss"][-1] < metrics["loss"][0] / 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
