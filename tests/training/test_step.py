"""One step: normalisation by tokens, accumulation, sharding, schedules, decay, and the non-finite guard."""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from initialised import parameters

from lmarch.config import Config
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.training.optimizers import first_rates, learning_rate_schedule, make_optimizer
from lmarch.training.sharding import put_rows
from lmarch.training.step import gradients, initial_state, make_program, train_step


def ragged_batch(rows: int = 8, length: int = 32, seed: int = 0) -> Batch[np.ndarray]:
    """Rows of very different numbers of targets."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 256, (rows, length + 1))
    weights = (np.arange(length) < random.integers(1, length + 1, (rows, 1))).astype(np.float32)
    return Batch(
        tokens=tokens[:, :-1].astype(np.int32),
        targets=tokens[:, 1:].astype(np.int32),
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        segment_ids=np.zeros((rows, length), np.int32),
        weights=weights,
        target_bytes=weights.sum(-1).astype(np.int32),
    )


def definition(config: Config) -> ModelDefinition:
    return ModelDefinition(config.model, vocab_size=264)


ONE_DEVICE = dict(mesh__data=1, mesh__fsdp=1, mesh__tensor=1)


def test_the_gradient_is_that_of_the_mean_over_all_targets(tmp_path: Path) -> None:
    config, batch = tiny.config(tmp_path), jax.tree.map(jnp.asarray, ragged_batch())
    made = definition(config)
    params = parameters(made)

    def mean_loss(params):
        log_p = jax.nn.log_softmax(made.apply(params, batch.tokens))
        picked = jnp.take_along_axis(log_p, batch.targets[..., None], -1)[..., 0]
        return -(picked * batch.weights).sum() / batch.weights.sum()

    (grads, sums), expected = jax.jit(
        lambda params: (gradients(config, made, params, batch), jax.grad(mean_loss)(params))
    )(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, expected)
    assert sums.tokens == batch.weights.sum()


def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    whole, made = tiny.config(tmp_path, train__z_loss=1e-3), definition(tiny.config(tmp_path))

    @jax.jit
    def in_parts(params, batch):
        trains = [dataclasses.replace(whole.train, accumulate=parts) for parts in (1, 4)]
        return [gradients(dataclasses.replace(whole, train=train), made, params, batch) for train in trains]

    (expected, sums), (found, cut_sums) = in_parts(parameters(made), ragged_batch())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    np.testing.assert_allclose(cut_sums, sums, rtol=1e-5)


def losses(config: Config, steps: int) -> list[float]:
    program = make_program(config, definition(config))
    state, found = program.init(), []
    for step in range(steps):
        state, metrics = program.step(state, put_rows(ragged_batch(seed=step), program.mesh), program.rates.at(step))
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.parametrize(
    "mesh",
    [pytest.param(dict(fsdp=4, tensor=2, data=1), marks=pytest.mark.slow), dict(data=2, fsdp=2, tensor=2)],
    ids=str,
)
def test_eight_devices_give_the_losses_of_one(mesh: dict, tmp_path: Path) -> None:
    """20 steps to 1e-5. The sizes make every parameter split."""
    changes = {f"mesh__{axis}": size for axis, size in mesh.items()}
    many = tiny.config(tmp_path, train__steps=20, **changes)
    one = losses_on_one_device(tmp_path)
    np.testing.assert_allclose(losses(many, 20), one, rtol=1e-5)


_one: list[float] = []


def losses_on_one_device(folder: Path) -> list[float]:
    """The same steps with everything on one device, in plain calls without a mesh."""
    if not _one:
        config = tiny.config(folder, train__steps=20)
        made, rates = definition(config), first_rates(config, 20)
        state = initial_state(config, made.axes, made.init(jax.random.key(config.model.seed)))
        step = jax.jit(functools.partial(train_step, config, made))
        for number in range(20):
            state, metrics = step(state, jax.tree.map(jnp.asarray, ragged_batch(seed=number)), rates.at(number))
            _one.append(float(metrics["loss"]))
    return _one


def test_parameters_are_split_as_the_rules_say(tmp_path: Path) -> None:
    config = tiny.config(tmp_path, mesh__data=1, mesh__fsdp=4, mesh__tensor=2)
    state = make_program(config, definition(config)).init()
    for tree in (state["params"], state["opt_state"][1][0].mu):
        query = tree["stack"]["layers"]["attention"]["query"]  # [layers, embed, heads, head_dim] = [2, 32, 4, 8]
        assert query.sharding.shard_shape(query.shape) == (2, 8, 2, 8)
        assert tree["embedding"].sharding.shard_shape((264, 32)) == (132, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mesh__data=3), "does not divide 8 devices: their product must be 8"),
        (dict(mesh__data=1, mesh__fsdp=1, mesh__tensor=4), "does not divide 8 devices"),
        (dict(mesh__tensor=4, mesh__fsdp=2), "config.mesh.tensor=4 does not divide the 2 kv_heads of parameter"),
        (dict(mesh__data=8, data__batch_rows=12), "= 12 rows do not divide over data x fsdp = 8 devices"),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        make_program(config, definition(config))
    assert message in str(error.value)


def test_what_is_not_finite_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    """A loss; and a gradient whose loss is finite, here that of a z-loss whose square is beyond float32."""
    config = tiny.config(tmp_path, train__z_loss=3e38)
    program = make_program(config, definition(config))
    for broken in (True, False):
        state = program.init()
        if broken:
            state["params"]["final_norm"]["scale"] = state["params"]["final_norm"]["scale"].at[0].set(jnp.nan)
        before = jax.device_get(state)
        after, metrics = program.step(state, put_rows(ragged_batch(), program.mesh), program.rates.at(0))
        assert not metrics["finite"]
        assert np.isfinite(metrics["loss"]) == (not broken)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)


@pytest.mark.slow
def test_z_loss_pulls_the_normaliser_towards_zero(tmp_path: Path) -> None:
    first_loss, normaliser = [], []
    for weight in (0.0, 1.0):
        config = tiny.config(tmp_path, train__z_loss=weight)
        program = make_program(config, definition(config))
        state, batch = program.init(), put_rows(ragged_batch(), program.mesh)
        metrics = []
        for step in range(3):
            state, of_step = program.step(state, batch, program.rates.at(step))
            metrics.append(of_step)
        sums = program.evaluate(state["params"], batch)
        first_loss.append(float(metrics[0]["loss"]))
        normaliser.append(float(sums.z / sums.tokens))
    assert first_loss[0] == first_loss[1]  # the reported loss is without it
    assert normaliser[1] < 0.99 * normaliser[0]


def test_weight_decay_applies_to_matrices_and_not_to_norms(tmp_path: Path) -> None:
    optimizer = {"name": "adamw", "weight_decay": 0.5}
    config = tiny.config(tmp_path, train__optimizer=optimizer, train__warmup_steps=0, train__schedule="constant")
    made = definition(config)
    params = jax.device_get(parameters(made))
    optimizer_ = make_optimizer(config, made.axes, first_rates(config, 1).at(0))
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(lambda params: optimizer_.update(zero, optimizer_.init(params), params))(params)
    np.testing.assert_allclose(updates["embedding"], -0.01 * 0.5 * params["embedding"], rtol=1e-5)
    assert np.all(updates["stack"]["layers"]["ffn_norm"]["scale"] == 0)
    assert np.all(updates["final_norm"]["scale"] == 0)


def schedule(tmp_path: Path, **train) -> list[float]:
    config = tiny.config(tmp_path, **{f"train__{key}": value for key, value in train.items()})
    rates = jax.jit(jax.vmap(learning_rate_schedule(config)))(np.arange(config.total_steps + 1))
    return np.asarray(rates).tolist()


def test_schedules_have_their_values_at_the_boundaries(tmp_path: Path) -> None:
    peak = dict(learning_rate=1.0, steps=20, warmup_steps=4, final_fraction=0.1)
    cosine = schedule(tmp_path, schedule="cosine", **peak)
    np.testing.assert_allclose(cosine[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
    np.testing.assert_allclose(cosine[12], 0.55, rtol=1e-6)  # half-way down: (1 + 0.1) / 2
    np.testing.assert_allclose(cosine[20], 0.1, rtol=1e-6)
    wsd = schedule(tmp_path, schedule="wsd", decay_steps=6, **peak)
    np.testing.assert_allclose(wsd[4:15], 1.0, rtol=1e-6)
    np.testing.assert_allclose([wsd[17], wsd[20]], [0.55, 0.1], rtol=1e-6)
    assert set(schedule(tmp_path, schedule="constant", **{**peak, "warmup_steps": 0})) == {1.0}


def test_bits_per_byte_of_uniform_bytes_is_the_log_of_the_vocabulary(tmp_path: Path) -> None:
    config = tiny.config(tmp_path)
    program = make_program(config, definition(config))
    state = program.init()
    state["params"]["embedding"] = jnp.zeros_like(state["params"]["embedding"])
    _, metrics = program.step(state, put_rows(ragged_batch(), program.mesh), program.rates.at(0))
    np.testing.assert_allclose(metrics["bits_per_byte"], math.log2(264), rtol=1e-6)
