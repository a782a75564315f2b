"""Training a memory across documents: contexts of other rows stand in it, and nowhere else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from specs import inputs, rope, untraced_attend

from lmarch.config import from_dict
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.training.step import gradients, loss_sums

LOCAL, LENGTH, ROWS = 8, 21, 4
SPEC = rope(selection=f"knn:local={LOCAL},top=none")


@functools.partial(jax.jit, static_argnums=(3, 4))
def attend(q, k, v, spec, others: int, segments=None) -> jax.Array:
    return untraced_attend(q, k, v, spec, other_rows=others, segment_ids=segments)


def moved(changed_row: int, changed: int, others: int, segments=None) -> np.ndarray:
    """Which outputs [B, T] a change of one value moves."""
    q, k, v = inputs(LENGTH, rows=ROWS)
    other = np.array(v)
    other[changed_row, changed] += 1.0
    before, after = (np.asarray(attend(q, k, x, SPEC, others, segments)) for x in (v, other))
    return np.abs(after - before).max((2, 3)) > 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_context_of_the_next_rows_is_in_every_memory(packed: bool) -> None:
    segments = jnp.asarray([[0] * 13 + [1] * 8] * ROWS) if packed else None
    for changed in (0, LOCAL - 1):
        found = moved(2, changed, 2, segments)
        assert found[[0, 1]].all()  # they have row 2 among the two after them
        assert not found[3].any()
        own = np.arange(LENGTH) >= changed
        assert np.array_equal(found[2], own & (np.arange(LENGTH) < 13) if packed else own)
    later = moved(2, LOCAL, 2, segments)
    assert not later[[0, 1, 3]].any()


def test_without_others_it_is_the_layer_itself() -> None:
    assert not moved(2, 0, 0)[[0, 1, 3]].any()


def test_others_compete_in_one_softmax_as_memory_does() -> None:
    """Against the definition in NumPy: keys of a memory are unturned, the query is at its place in its context."""
    q, k, v = inputs(LENGTH, rows=ROWS)
    out = np.asarray(attend(q, k, v, SPEC, 1))
    frequencies = np.asarray(SPEC.position.rotation.inverse_frequencies)

    def turned(x, position):
        first, second = x[..., :8], x[..., 8:]
        cos, sin = np.cos(position * frequencies), np.sin(position * frequencies)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    for row, t, head in ((0, 3, 0), (1, 12, 2), (3, 20, 1)):
        start = t // LOCAL * LOCAL
        query = turned(q[row, t, head], t - start)
        other = (row + 1) % ROWS
        keys = [turned(k[row, s, head], s - start) for s in range(start, t + 1)]
        keys += [k[row, s, head] for s in range(start)] + [k[other, s, head] for s in range(LOCAL)]
        values = [v[row, s, head] for s in range(start, t + 1)]
        values += [v[row, s, head] for s in range(start)] + [v[other, s, head] for s in range(LOCAL)]
        weights = np.exp(np.asarray(keys) @ query / 4)
        np.testing.assert_allclose(out[row, t, head], weights / weights.sum() @ np.asarray(values), atol=1e-5)


@pytest.mark.slow
def test_a_run_trains_with_others_and_is_scored_without(tmp_path) -> None:
    layers = ({}, {"selection": "knn:local=8,top=4"})
    config = tiny.config(tmp_path, model__layers=layers, train__cross_batch=3)
    alone = from_dict(dataclasses.asdict(config) | {"train": dataclasses.asdict(config.train) | {"cross_batch": 0}})
    definition = ModelDefinition(config.model, 64)
    params = definition.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 64, (8, 33)), jnp.int32)
    where = jnp.broadcast_to(jnp.arange(32, dtype=jnp.int32)[None], (8, 32))
    batch = Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        positions=where,
        segment_ids=where * 0,
        weights=jnp.ones((8, 32)),
        target_bytes=jnp.ones((8, 32), jnp.int32),
    )

    @jax.jit
    def trained(params, batch):
        made = [gradients(one, definition, params, batch) for one in (config, alone)]
        return made, loss_sums(definition, params, batch).nll

    ((with_others, sums), (without, plain)), scored = trained(params, batch)
    assert abs(float(sums.nll - plain.nll)) > 1e-3
    assert float(plain.nll) == pytest.approx(float(scored), rel=1e-6)
    keys = ("stack", "layers_1", "attention", "key")
    ours, theirs = (g[keys[0]][keys[1]][keys[2]][keys[3]] for g in (with_others, without))
    assert np.abs(ours - theirs).max() > 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__cross_batch": 8}, r"cross_batch=8 must be in \[0, data.batch_rows=8"),
        ({"train__cross_batch": 2}, "needs layers with selection='knn'"),
        ({"train__cross_batch": 2, "model__selection": "knn", "train__accumulate": 2}, "train.accumulate=1"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, message: str, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        tiny.config(tmp_path, **changes)


def test_more_others_than_there_are_rows_are_refused() -> None:
    with pytest.raises(UserError, match="3 others in a batch of 4"):
        untraced_attend(*inputs(LENGTH, rows=ROWS), SPEC, other_rows=4)


def test_others_without_a_memory_are_refused() -> None:
    with pytest.raises(
        UserError, match="other_rows=1 belongs to selection 'knn', and this layer has none: leave it out"
    ):
        untraced_attend(*inputs(LENGTH, rows=ROWS), rope(), other_rows=1)
