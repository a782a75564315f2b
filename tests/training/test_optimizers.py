"""Optimizers: what each does to which parameters, averaged weights, skipped spikes, and rates that transfer across widths."""

import dataclasses
import functools
import json
from pathlib import Path

import alone
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from initialised import parameters
from measured import evaluate

import lmarch
from benchmarks.coordinate_check import logit_changes
from lmarch.config import from_dict
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch
from lmarch.positions import POSITIONS, TEMPERATURES, PositionContext, build_position
from lmarch.registry import parse_variant
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics
from lmarch.training.optimizers import OPTIMIZERS, first_rates, kind_of, make_optimizer
from lmarch.training.step import averaged, judge_norm, make_program, train_step

NAMES = sorted(OPTIMIZERS)
WITHOUT_DECAY = {"weight_decay": 0.0}


def made(optimizer: str, **model):
    """(definition, optimizer) of a tiny model."""
    sizes = {"trained_length": 16, "num_layers": 2, "dim": 32, "num_heads": 4, **model}
    train = {"steps": 10, "optimizer": optimizer, "learning_rate": 0.1, "schedule": "constant", "clip_norm": None}
    config = from_dict({"model": sizes, "train": train})
    definition = ModelDefinition(config.model, vocab_size=40)
    return definition, make_optimizer(config, definition.axes, first_rates(config, 1).at(0))


def updates_of(optimizer: str, gradient, **model):
    """Names -> (parameter, its first update) for gradients `gradient(parameter)`."""
    definition, transform = made(optimizer, **model)
    params = jax.device_get(parameters(definition))
    grads = jax.tree.map(gradient, params)
    updates, _ = jax.jit(lambda grads, params: transform.update(grads, transform.init(params), params))(grads, params)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=True)
    return dict(zip(names, pairs, strict=True))


def noise(parameter: np.ndarray) -> np.ndarray:
    return np.random.default_rng(parameter.size).standard_normal(parameter.shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_learns(tmp_path: Path, name: str) -> None:
    rate = {"lion": 3e-3, "adafactor": 0.1}.get(name, 1e-2)
    config = tiny.config(tmp_path, train__optimizer=name, train__learning_rate=rate, train__steps=40)
    losses = alone.steps(config, alone.definition(config), alone.batches(config, 40))[1]["loss"]
    assert np.mean(losses[-5:]) < 0.75 * losses[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base_dim", [None, 8])
def test_weight_decay_takes_its_share_of_matrices_and_leaves_the_rest(name: str, base_dim: int | None) -> None:
    """The same share in models wider than their base, whose hidden matrices have a lower rate."""
    optimizers = (f"{name}:weight_decay={decay}" for decay in (0.5, 0.0))
    with_decay, without = (updates_of(optimizer, noise, base_dim=base_dim) for optimizer in optimizers)
    for path, (parameter, update) in with_decay.items():
        taken = np.asarray(update - without[path][1])
        np.testing.assert_allclose(taken, -0.1 * 0.5 * parameter * ("norm" not in path), atol=2e-6, err_msg=path)


def test_muon_makes_updates_of_hidden_matrices_orthogonal_layer_by_layer() -> None:
    updates = updates_of("muon:weight_decay=0", noise)
    for path, shape in (("query", (32, 32)), ("out", (32, 32)), ("up", (32, 96)), ("down", (96, 32))):
        (_, update) = next(pair for name, pair in updates.items() if f"'{path}'" in name)
        for layer in np.asarray(update).reshape(2, *shape):
            values = np.linalg.svd(layer, compute_uv=False) / (0.1 * 0.2 * max(shape) ** 0.5)
            assert values.max() < 1.3, path
            assert np.median(values) > 0.6, path  # as near 1 as five steps bring them; the smallest stay behind
    embedding = updates["['embedding']"][1]
    np.testing.assert_allclose(np.abs(embedding), 0.1, rtol=1e-3)  # Adam's first step


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_steps_alike_on_any_mesh(tmp_path: Path, name: str) -> None:
    changes = dict(train__average_decay=0.9, train__skip_spikes=4.0, model__num_layers=1)
    config = tiny.config(tmp_path, train__optimizer=name, **changes)
    definition = ModelDefinition(config.model, vocab_size=64)
    tokens = np.random.default_rng(0).integers(0, 64, (8, 32))
    batch = Batch(
        tokens=tokens,
        targets=np.roll(tokens, -1, axis=1),
        positions=np.broadcast_to(np.arange(32), (8, 32)),
        segment_ids=np.zeros((8, 32), int),
        weights=np.ones((8, 32), np.float32),
        target_bytes=np.ones((8, 32), int),
    )
    batch = jax.tree.map(lambda values: values.astype(np.int32) if values.dtype.kind == "i" else values, batch)
    mesh = dataclasses.replace(config.mesh, data=2, fsdp=2, tensor=2)
    program = make_program(dataclasses.replace(config, mesh=mesh), definition)
    results, on_mesh = [], program.init()
    on_one_device = jax.device_get(on_mesh)
    without_mesh = jax.jit(functools.partial(train_step, config, definition))
    for state, step in ((on_mesh, program.step), (on_one_device, without_mesh)):
        for number in range(2):
            state, _ = step(state, batch, program.rates.at(number))
        results.append(jax.device_get({key: state[key] for key in ("params", "average")}))
    for one, other in zip(*(jax.tree.leaves(result) for result in results), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.parametrize(
    ("names", "hidden", "decayed"),
    [
        (("layers", "embed", "heads", "head_dim"), ((1,), (2, 3)), True),
        (("layers", "heads", "head_dim", "embed"), ((1, 2), (3,)), True),
        (("layers", "mlp", "embed"), ((1,), (2,)), True),
        (("vocab", "embed"), None, True),
        (("embed", "vocab"), None, True),
        (("layers", "embed", "heads"), ((1,), (2,)), True),
        (("buckets", "heads"), None, False),
        (("layers", "mlp_bias", "heads"), None, False),
        (("layers", "heads", "head_dim"), None, False),
        (("layers", "embed"), None, False),
        (("embed",), None, False),
    ],
)
def test_a_parameter_is_known_by_its_axes(names, hidden, decayed: bool) -> None:
    kind = kind_of(names)
    assert kind.decayed == decayed
    assert ((kind.inputs, kind.outputs) if kind.hidden else None) == hidden


@pytest.mark.parametrize("name", POSITIONS)
def test_nothing_that_is_learned_of_distances_is_decayed(name: str) -> None:
    """Decay would pull some biases towards no positions at all. Embeddings of positions are decayed, as those of tokens are."""
    position = build_position(name, PositionContext(16, 1e4, 64, 64, num_heads=4))
    learned = position.bias.parameters() if position.bias else {}
    assert [name for name, parameter in learned.items() if kind_of(parameter.axes).decayed] == []
    assert [name for name, parameter in learned.items() if kind_of(("layers", *parameter.axes)).decayed] == []
    embedding = position.embedding.embedding_parameters(32) if position.embedding else {}
    assert all(kind_of(parameter.axes).decayed for parameter in embedding.values())


@pytest.mark.parametrize("name", TEMPERATURES)
def test_nothing_that_a_temperature_learns_is_decayed(name: str) -> None:
    temperature = TEMPERATURES.build(name).resolve(PositionContext(16, 1e4, 64, 64, num_heads=4))
    assert not any(kind_of(parameter.axes).decayed for parameter in temperature.parameters(4).values())


@pytest.mark.parametrize("position", ["t5_bias", "fire", "fire:shared=true"])
def test_weight_decay_leaves_tables_and_matrices_of_biases_alone(position: str) -> None:
    variant = parse_variant(position)
    with_decay, without = (updates_of(f"adamw:weight_decay={decay}", noise, position=variant) for decay in (0.5, 0.0))
    of_bias = [path for path in with_decay if variant["name"].split("_")[0] in path]
    assert of_bias
    for path in of_bias:
        np.testing.assert_array_equal(with_decay[path][1], without[path][1], err_msg=path)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ("adamw:b1=1", r"adamw b1=1.* must be in \[0, 1\)"),
        ("adamw:eps=0", "adamw eps=0.0 must be above 0"),
        ("lion:weight_decay=-1", "lion weight_decay=-1.0 must not be negative"),
        ("muon:rate=0", "muon rate=0.0 must be above 0"),
        ("adafactor:clip=0", "adafactor clip=0.0 must be above 0"),
        ("moun", "did you mean 'muon'"),
    ],
)
def test_impossible_optimizers_are_refused(optimizer: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        OPTIMIZERS.build(optimizer)


@pytest.mark.slow
def test_averaged_weights_are_kept_validated_and_evaluated_beside_the_last_ones(tmp_path: Path) -> None:
    config = tiny.config(tmp_path, train__average_decay=0.5, train__steps=4, train__checkpoint_steps=1)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, keep_checkpoints=10))
    train(config, tmp_path / "run")
    # By hand, from the checkpoints of every step: the decay is (1 + step) / (10 + step) as long as that is below 0.5.
    weights = [lmarch.load(tmp_path / "run", step=step).trained_params for step in (1, 2, 3, 4)]
    average = ModelDefinition(config.model, lmarch.load(tmp_path / "run").definition.vocab_size).init(jax.random.key(0))
    for step, params in enumerate(weights):
        decay = (1 + step) / (10 + step)
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, params)
    model = lmarch.load(tmp_path / "run", average=True)
    for one, other in zip(*(jax.tree.leaves(tree) for tree in (average, model.trained_params)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    last = [entry for entry in read_metrics(tmp_path / "run") if "validation_bits_per_byte" in entry][-1]
    assert last["validation_average_bits_per_byte"] != last["validation_bits_per_byte"]
    chosen = [("eval.suite", "smoke"), ("eval.lengths", "16,32"), ("eval.parts", "paired"), ("eval.methods", "rope")]
    values = {}
    for one in (lmarch.load(tmp_path / "run"), model):
        evaluate(one, chosen)
        folder = tmp_path / "run" / "eval" / ("smoke-average" if one.average else "smoke")
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        assert all(row["averaged_weights"] == one.average for row in rows)
        values[one.average] = rows[0]["value"]
    assert values[True] != values[False]


def test_a_run_without_an_average_says_so(tmp_path: Path) -> None:
    train(tiny.config(tmp_path, train__steps=1), tmp_path / "run")
    with pytest.raises(UserError, match="keeps no average of its weights"):
        lmarch.load(tmp_path / "run", average=True)


def test_the_average_of_constant_weights_is_these_weights() -> None:
    params = {"w": jnp.full((3,), 2.0)}
    np.testing.assert_array_equal(averaged(params, params, 0.99, jnp.asarray(7))["w"], params["w"])


def test_a_spike_is_skipped_and_norms_that_have_grown_for_good_are_not() -> None:
    norms = {"mean": jnp.zeros(()), "seen": jnp.zeros((), jnp.int32)}
    spikes = []
    for norm in [1.0] * 19 + [50.0, 1.0] + [1.0] * 40 + [50.0] + [1.0] * 10 + [20.0] * 300:
        spike, norms = judge_norm(norms, jnp.asarray(norm), 4.0)
        spikes.append(bool(spike))
    assert not any(spikes[:20])  # nothing is judged yet
    assert spikes[61]
    assert not any(spikes[62:72])
    assert spikes[72]
    assert not any(spikes[-200:])


def test_a_spike_does_not_hide_the_next_one() -> None:
    """It enters the mean as the largest norm that is none."""
    norms = {"mean": jnp.asarray(1.0), "seen": jnp.asarray(100)}
    for norm in (1e6, 50.0):
        spike, norms = judge_norm(norms, jnp.asarray(norm), 4.0)
        assert spike
    assert float(norms["mean"]) == pytest.approx((0.98 + 0.02 * 4) ** 2)


def test_a_skipped_step_counts_and_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    def third_is_a_spike(norms, norm, factor):
        return norms["seen"] == 2, {"mean": norm, "seen": norms["seen"] + 1}

    monkeypatch.setattr("lmarch.training.step.judge_norm", third_is_a_spike)
    changes = dict(train__steps=4, train__checkpoint_steps=1, train__schedule="constant", train__average_decay=0.5)
    config = tiny.config(tmp_path, train__skip_spikes=4.0, **changes)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, keep_checkpoints=10))
    train(config, tmp_path / "run")
    skipped = {e["step"]: bool(e["skipped"]) for e in read_metrics(tmp_path / "run") if "skipped" in e}
    assert skipped == {1: False, 2: False, 3: True, 4: False}
    for average in (False, True):
        weights = {step: lmarch.load(tmp_path / "run", step, average).trained_params for step in skipped}
        for step in (2, 3, 4):
            pairs = zip(*(jax.tree.leaves(weights[n]) for n in (step - 1, step)), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs) == skipped[step], step


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tied"), [*((name, True) for name in NAMES), ("adamw", False)])
def test_with_a_base_width_steps_move_the_logits_about_alike_at_every_width(optimizer: str, tied: bool) -> None:
    changes = logit_changes(32, optimizer, tied)[8]
    assert changes[-1] < 1.2 * changes[0], changes  # never more at a larger width,
    assert max(changes) / min(changes) < 2.2, changes  # and not ever less: what falls are terms of narrow models


@pytest.mark.slow
def test_without_a_base_width_steps_move_the_logits_more_at_every_larger_one() -> None:
    changes = logit_changes(None)[8]
    assert changes == sorted(changes)
    assert changes[-1] / changes[0] > 2.2, changes


def test_at_its_base_width_a_model_trains_as_without_one(tmp_path: Path) -> None:
    trained = []
    for base in (32, None):
        config = tiny.config(tmp_path, train__steps=3, model__base_dim=base, model__num_layers=1)
        trained.append(alone.steps(config, alone.definition(config), alone.batches(config, 3))[0])
    for a, b in zip(*map(jax.tree.leaves, trained), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("field", ["scale_embeddings", "scale_unembedding"])
def test_another_scaling_by_width_is_refused_beside_it(field: str) -> None:
    with pytest.raises(UserError, match=f"{field}=True scales by the width in another way than base_dim=32"):
        from_dict({"model": {"base_dim": 32, field: True}, "train": {"steps": 1}})
