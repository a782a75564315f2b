"""All architectures and objectives train: exact resume, any mesh, accumulation and packing, on any number of hosts."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import alone
import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from alone import definition, loader

import lmarch
from lmarch.config import Config, MeshConfig, from_dict
from lmarch.data.feed import Feed
from lmarch.data.packing import pack
from lmarch.data.plan import make_plan
from lmarch.data.questions import Questions
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.objectives import OBJECTIVES, Batch, Draws, Examples, Texts
from lmarch.training import run as running
from lmarch.training.loop import train
from lmarch.training.sharding import make_mesh, put_rows, replicated
from lmarch.training.step import gradients, make_program

BYTES = load_tokenizer("bytes")
PAIRS = [(name, arch) for name in OBJECTIVES for arch in OBJECTIVES[name].architectures]
FAST = [("span_corruption", "encoder_decoder"), ("blank_infilling", "prefix_decoder")]
OTHERS = ("prefix_decoder", "encoder_decoder")


def config_of(folder: Path, architecture: str, objective: str | None = None, **changes: Any) -> Config:
    changes |= {"model__architecture": architecture}
    if objective:
        changes["data__objective"] = objective
    if objective == "blank_infilling":
        changes["model__block_positions"] = "rotary"
    return tiny.config(folder, **changes)


@pytest.mark.parametrize(
    ("objective", "architecture"),
    [pair if pair in FAST else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS],
)
def test_every_objective_trains_in_every_architecture_it_is_defined_for(
    objective: str, architecture: str, tmp_path: Path
) -> None:
    config = config_of(tmp_path, architecture, objective, train__steps=30, model__num_layers=1)
    losses = alone.steps(config, definition(config), alone.batches(config, 30))[1]["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.5
    model = initialised.model(config, tmp_path / "run")
    remark = model.out_of_design(32)
    assert ("scored on continuations" in (remark or "")) == (not OBJECTIVES[objective].overlapping)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_batch_is_the_same_on_any_number_of_hosts(pair: tuple[str, str], tmp_path: Path) -> None:
    config = config_of(tmp_path, pair[1], pair[0])
    whole = loader(config).batch(3)
    parts = [loader(config, process_index=i, process_count=4).batch(3) for i in range(4)]
    jax.tree.map(lambda rows, *own: np.testing.assert_array_equal(rows, np.concatenate(own)), whole, *parts)
    jax.tree.map(np.testing.assert_array_equal, whole, loader(config).batch(3))
    other = loader(config_of(tmp_path, pair[1], pair[0], data__seed=1)).batch(3)
    assert not np.array_equal(whole.tokens, other.tokens)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if not OBJECTIVES[pair[0]].overlapping], ids="-".join)
def test_rows_for_denoising_use_all_text_once_and_always_fit(pair: tuple[str, str], tmp_path: Path) -> None:
    config = config_of(tmp_path, pair[1], pair[0])
    budget = make_plan(config).budget
    rows = pack(config.data, "train", config.row_length, BYTES, budget)
    assert (rows.documents[:] >= 0).sum() == rows.num_tokens
    plain = pack(config.data, "train", rows.num_tokens, BYTES)  # the whole stream as one row
    np.testing.assert_array_equal(rows.tokens[:][rows.documents[:] >= 0], plain.tokens[0, : rows.num_tokens])
    text = np.array([(row >= 0).sum() for row in rows.documents])
    assert text[:-1].min() > 0.4 * text.max()  # no row is nearly empty
    feed, seen = make_plan(config).feed(BYTES), 0
    for start in range(0, len(rows.tokens), 8):
        numbers = range(start, min(start + 8, len(rows.tokens)))
        feed(rows.tokens[start : start + 8], rows.documents[start : start + 8], 0, numbers, sample=True)  # asserts that
        seen += len(numbers)
    assert seen == len(rows.tokens)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["encoder_decoder", pytest.param("prefix_decoder", marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_exactly(architecture: str, tmp_path: Path, monkeypatch) -> None:
    changes = dict(train__checkpoint_steps=3, train__keep_checkpoints=9, model__num_layers=1)
    config = config_of(tmp_path, architecture, **changes)
    train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        step = running.put_rows

        def interrupting(batch: Batch, mesh: Any) -> Batch:
            calls.append(0)
            if len(calls) == 6:
                os.kill(os.getpid(), signal.SIGINT)
            return step(batch, mesh)

        calls: list[int] = []
        patch.setattr(running, "put_rows", interrupting)
        assert train(config, tmp_path / "cut").exit_status == 130
    assert train(config, tmp_path / "cut").exit_status == 0
    whole, cut = (lmarch.load(tmp_path / name).trained_params for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


def losses(config: Config) -> list[float]:
    made, batches = definition(config), loader(config)
    program = make_program(config, made)
    state, found = program.init(), []
    for step in range(8):
        state, metrics = program.step(state, put_rows(batches.batch(step), program.mesh), program.rates.at(step))
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OTHERS)
def test_any_mesh_of_eight_devices_gives_the_same_losses(architecture: str, tmp_path: Path) -> None:
    many = config_of(tmp_path, architecture, mesh__data=1, mesh__fsdp=4, mesh__tensor=2)
    other = config_of(tmp_path, architecture, mesh__data=8)
    np.testing.assert_allclose(losses(many), losses(other), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "architecture"),
    [
        ("span_corruption", "encoder_decoder"),
        ("blank_infilling", "prefix_decoder"),
    ],
)
def test_accumulation_data_parallel_and_packing_change_no_gradient(
    objective: str, architecture: str, tmp_path: Path
) -> None:
    """To 1e-6, with ragged padding: micro-batches, eight devices, several examples in a row or each in its own."""
    room = {"data__target_length": 32} if architecture == "encoder_decoder" else {}  # for the overhead of four texts
    config = config_of(tmp_path, architecture, objective, model__num_layers=1, **room)
    made, feed = definition(config), make_plan(config).feed(BYTES)
    params = made.init(jax.random.key(0))
    gradient = jax.jit(lambda params, batch: gradients(config, made, params, batch)[0])
    cut = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=4))
    accumulated = jax.jit(lambda params, batch: gradients(cut, made, params, batch)[0])

    whole = jax.tree.map(jnp.asarray, loader(config).batch(0))
    alone_on_one = gradient(params, whole)
    assert_close(accumulated(params, whole), alone_on_one)
    mesh = make_mesh(MeshConfig(data=8))
    on_eight = gradient(jax.device_put(params, replicated(mesh)), put_rows(loader(config).batch(0), mesh))
    assert_close(on_eight, alone_on_one)

    assert feed.questions is not None
    pieces = np.array([3, 9, 2, 6])  # of one row; four examples in one row, and the same four in a row each
    examples = examples_of(feed.questions, pieces)
    packed, alone = (
        jax.tree.map(jnp.asarray, feed.questions.collator.batch(examples, np.array(counts), feed.byte_lengths))
        for counts in ([4], [1] * 4)
    )
    assert packed.weights.sum() == alone.weights.sum() > 0
    assert_close(gradient(params, packed), gradient(params, alone))


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("causal_decoder", dict(model__position="rerope:window=5")),
        ("causal_decoder", dict(model__position="sinusoidal")),
        ("prefix_decoder", dict(model__position="rerope:window=5")),
        ("encoder_decoder", dict(model__position="rerope:window=5")),
        ("encoder_decoder", dict(model__cross_positions="continuous")),
    ],
    ids=str,
)
def test_a_model_that_counts_positions_itself_learns_what_one_that_is_told_them_does(
    architecture: str, changes: dict[str, Any], tmp_path: Path, monkeypatch
) -> None:
    config = config_of(tmp_path, architecture, model__num_layers=1, **changes)
    made, rng = definition(config), np.random.default_rng(0)
    tokens = rng.integers(60, 120, (8, 33))
    documents = np.cumsum(rng.random(tokens.shape) < 0.1, axis=1)

    def fed() -> Batch[np.ndarray]:
        return make_plan(config).feed(BYTES)(tokens, documents, 0, range(8), sample=True)

    counted = fed()
    monkeypatch.setattr(Feed, "counts", False)
    told = fed()
    assert counted.positions is None
    assert told.positions is not None
    assert counted.segment_ids.max() > 0
    params = initialised.parameters(made)
    assert_close(*(jax.jit(lambda batch: gradients(config, made, params, batch)[0])(b) for b in (counted, told)))


def examples_of(questions: Questions, pieces: np.ndarray) -> Examples:
    """Of random texts of these lengths."""
    tokens = np.random.default_rng(0).integers(60, 120, pieces.sum()).astype(np.int32)
    draws = Draws.of_rows(0, 0, np.arange(len(pieces)))
    return questions.objective.examples(Texts(tokens, pieces), questions.collator.vocabulary, draws)


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


# What only a causal layer can have; a prefix without positions is allowed, with a remark.
NEEDS_ORDER = {"prefix_decoder": ("xpos", "dual_chunk"), "encoder_decoder": ("xpos", "dual_chunk", "nope")}


# A causal decoder trains them all (test_positions_in_training.py); here what another architecture may change in each kind.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("rerope", "encoder_decoder"),
        ("t5_bias", "prefix_decoder"),
        *((name, "prefix_decoder") for name in ("xpos", "dual_chunk")),
        *((name, "encoder_decoder") for name in ("xpos", "dual_chunk", "nope")),
        *(
            pytest.param(name, OTHERS[number % 2], marks=pytest.mark.slow)
            for number, name in enumerate(["nope", "learned", "fire", "alibi", "self_extend", "dynamic_ntk"])
        ),
    ],
)
def test_fifty_steps_of_every_position_method_are_finite_and_learn(
    name: str, architecture: str, tmp_path: Path
) -> None:
    position = {"name": name, "temperature": "ssmax"}
    changes = {"model__position": position, "model__sink": True, "model__num_layers": 1, "train__steps": 50}
    tree = tiny.tree(tmp_path, **changes, mesh__data=1, mesh__fsdp=-1, model__architecture=architecture)
    config = from_dict(tree)
    if name in NEEDS_ORDER[architecture]:
        with pytest.raises(UserError):
            make_program(config, definition(config))
        return
    assert make_program(config, definition(config))  # what it learns can be split over eight devices
    alone.assert_learned_by_heart(config, loader(config).batch(0))


PREFIX = {"model__architecture": "prefix_decoder"}
REFUSED: dict[str, dict[str, Any]] = {
    "causal_lm is not defined for encoder_decoder": dict(data__objective="causal_lm"),
    "unknown objective 'span'": dict(data__objective="span"),
    "has two positions a token: set config.model.block_positions": dict(**PREFIX, data__objective="blank_infilling"),
    "config.model.block_positions=rotary has no use": dict(**PREFIX, model__block_positions="rotary"),
    "config.data.mask_documents and restart_positions must be true": dict(data__mask_documents=False),
    "raise it, or shorten config.data.row_length=64": dict(model__encoder={"trained_length": 64}),
    "config.data.target_length=8 is too short": dict(data__target_length=8),
    "belongs to architecture='encoder_decoder'": dict(**PREFIX, data__target_length=8),
    "config.model.cross_positions=continuous belongs to": dict(**PREFIX, model__cross_positions="continuous"),
    "which cross-attention has no meaning for": dict(model__cross_positions="continuous", model__position="alibi"),
    "sentinels=2 are too few": dict(data__objective="span_corruption:sentinels=2,density=0.5"),
    "nope sees a bag of words": dict(model__position="nope"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line_before_any_text_is_read(message: str, tmp_path: Path) -> None:
    changes = {"model__architecture": "encoder_decoder", "data__corpus": "text:/nowhere/*.txt", **REFUSED[message]}
    with pytest.raises(UserError) as error:
        train(tiny.config(tmp_path, **changes), tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.json").exists()
