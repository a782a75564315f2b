"""Models with landmarks, from a config to text: nobody outside sees the landmarks that they read."""

import dataclasses
import json
from itertools import islice
from pathlib import Path

import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from measured import evaluate

import lmarch
from lmarch.config import ModelConfig
from lmarch.data.landmarks import Landmarks
from lmarch.errors import UserError
from lmarch.evaluation.manifest import Manifest, Window
from lmarch.evaluation.scoring import score
from lmarch.generation import generator as loop
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.loading import Model
from lmarch.models.definition import ModelDefinition
from lmarch.registry import parse_variant
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics

BLOCK, VOCABULARY = 4, 48
LANDMARKS = Landmarks(BLOCK, VOCABULARY - 8)
SELECTIONS = (f"landmark:block={BLOCK}", f"landmark:block={BLOCK},local=2,top=2")
BASE = ModelConfig(
    trained_length=32,
    num_layers=2,
    dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_dim=16,
    init_std=0.5,
    tied_embeddings=False,  # or a random model repeats its last token for ever
)
EACH = pytest.mark.parametrize("selection", SELECTIONS)


def definition(selection: str, **changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(BASE, selection=dict(parse_variant(selection)), **changes), VOCABULARY)


def prompts(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, LANDMARKS.token, length, np.int32) for length in lengths]


@EACH
@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_written_is_the_argmax_of_full_passes(selection: str, mixed: bool, monkeypatch) -> None:
    """Prompts that end before, at and after a landmark; layers that remember a window only are beside, if mixed."""
    monkeypatch.setattr(loop, "CHUNK", 4)
    layers = ({}, {"selection": None, "window": {"name": "sliding", "size": 3}}) if mixed else ()
    made = definition(selection, layers=layers)
    params = made.init(jax.random.key(3))
    generator, given = Generator(made, params, LANDMARKS), prompts(1, 3, 4, 5, 12)
    drawn = np.stack([*islice(generator.tokens(Texts(given), 30, Sampling()), 30)], axis=1)
    assert (drawn != LANDMARKS.token).all()
    apply = jax.jit(made.apply, static_argnames="last")
    for row, prompt in enumerate(given):
        text = np.pad(np.concatenate([prompt, drawn[row]]), (0, 12 - len(prompt)))
        logits = np.array(LANDMARKS.logits(apply, params, jnp.asarray(text, jnp.int32)[None])[0])
        logits[:, LANDMARKS.token] = -np.inf
        assert np.array_equal(logits[len(prompt) - 1 :][:30].argmax(-1), drawn[row])
    assert len(np.unique(drawn)) > 3


@EACH
def test_logits_of_a_text_do_not_depend_on_what_follows(selection: str) -> None:
    made = definition(selection)
    params, text = made.init(jax.random.key(0)), np.random.default_rng(1).integers(0, LANDMARKS.token, (2, 47))
    apply = jax.jit(made.apply, static_argnames="last")
    before = LANDMARKS.logits(apply, params, jnp.asarray(text))
    assert before.shape == (2, 47, VOCABULARY)
    changed = text.copy()
    changed[:, 31] = (changed[:, 31] + 1) % LANDMARKS.token
    after = LANDMARKS.logits(apply, params, jnp.asarray(changed))
    assert np.array_equal(before[:, :31], after[:, :31])
    assert (np.abs(before - after).max(-1)[:, 31:] > 0).mean() > 0.9  # a later token may have retrieved other blocks


@pytest.mark.parametrize("mask", [True, False])
def test_no_document_of_a_packed_row_leaks_into_another(mask: bool) -> None:
    made = definition(SELECTIONS[0])
    params, rng = made.init(jax.random.key(0)), np.random.default_rng(1)
    tokens = LANDMARKS.inserted(rng.integers(0, LANDMARKS.token, (1, 28)))
    segments = LANDMARKS.spread(np.repeat([0, 1, 2], [7, 12, 9])[None] * mask)
    other = tokens.copy()
    middle = (LANDMARKS.spread(np.repeat([0, 1, 2], [7, 12, 9])[None]) == 1) & (tokens != LANDMARKS.token)
    other[middle] = (other[middle] + 5) % LANDMARKS.token
    apply = jax.jit(lambda tokens: made.apply(params, tokens, None, jnp.asarray(segments)))
    before, after = (np.asarray(apply(jnp.asarray(x, jnp.int32))) for x in (tokens, other))
    moved = np.abs(before - after).max(-1)[0]
    first, last = np.argmax(middle[0]), len(moved) - np.argmax(middle[0][::-1])
    assert (moved[:first] == 0).all()
    assert ((moved[last + 1 :] == 0) == mask).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("landmarks")
    config = tiny.config(
        folder,
        model__selection=SELECTIONS[0],
        train__steps=60,
        data__corpus=tiny.write_corpus(folder / "text", documents=12, words=60),
    )
    train(config, folder / "run")
    return folder / "run"


@pytest.fixture
def model(run: Path) -> Model:
    return lmarch.load(run)


@pytest.mark.slow
def test_a_model_with_landmarks_learns(run: Path, model: Model) -> None:
    losses = [m["loss"] for m in read_metrics(run) if "loss" in m]
    assert losses[-1] < 0.7 * losses[0]
    assert model.landmarks == Landmarks(BLOCK, model.tokenizer.vocab_size)
    assert model.definition.vocab_size == 272
    record = json.loads((run / "run.json").read_text())
    assert record["tokens_per_row"] > record["loss_tokens_per_row"] > 20


@pytest.mark.slow
def test_its_logits_are_of_the_tokens_it_is_given(model: Model) -> None:
    text = model.tokenizer.encode("the fellow citizens of this union")[None]
    logits = model.logits(text)
    assert logits.shape == (1, text.shape[1], model.definition.vocab_size)
    assert model.landmarks is not None
    fed = np.insert(text[0], np.arange(BLOCK, text.shape[1] + 1, BLOCK), model.landmarks.token)
    said = model.definition.apply(model.params, jnp.asarray(fed, jnp.int32)[None])[0]
    marks = fed == model.landmarks.token
    ends = np.append(marks[1:], False)  # the token before a landmark is not asked
    np.testing.assert_allclose(logits[0], said[~ends], atol=1e-5)


@pytest.mark.slow
def test_it_is_scored_by_the_same_logits(model: Model) -> None:
    rng = np.random.default_rng(0)
    text = model.tokenizer.encode(" ".join(rng.choice(tiny.WORDS, 60)))
    windows = tuple(Window(0, first, 0, 7) for first in (60, 67, 75))
    manifest = Manifest("none", "test", "", "", 50, 7, 0, 1, windows)
    for made in (model, model.with_selection(SELECTIONS[1])):
        items = manifest.items([text], 50, made.tokenizer.byte_lengths, given=None)
        nll = score(made, items, lambda done: None).nll_NS
        for row, window in enumerate(windows):
            fed = text[window.first + 7 - 51 : window.first + 7]
            log_p = jax.nn.log_softmax(made.logits(fed[None, :-1])[0])
            expected = -np.asarray(log_p)[np.arange(43, 50), fed[-7:]]
            np.testing.assert_allclose(nll[row], expected, atol=1e-4)


@pytest.mark.slow
def test_it_is_evaluated_and_writes(model: Model) -> None:
    chosen = {"suite": "smoke", "methods": "rope", "lengths": "24,48", "selections": ",".join(SELECTIONS)}
    assert evaluate(model, [(f"eval.{name}", value) for name, value in chosen.items()]) == 0
    lines = (model.workdir / "eval" / "smoke" / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["method"] for row in rows} == {f"rope in {selection}" for selection in SELECTIONS}
    assert all(row["n_bytes"] == rows[0]["n_bytes"] for row in rows)
    assert all(0 < row["value"] < 8 for row in rows)
    for made in (model, model.with_selection(SELECTIONS[1])):
        text = made.generate("the fellow citizens", max_new_tokens=30)
        assert 0 < len(text) <= 30
        batch = made.generate(["the fellow citizens", "a union"], max_new_tokens=30)
        assert batch[0] == text


@pytest.mark.slow
def test_what_was_trained_says_where_landmarks_stand(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="they stand after every 4 tokens"):
        model.with_selection("landmark:block=5")
    assert model.with_selection(None).landmarks == model.landmarks
    assert "30 tokens are 37 with their landmarks, and training saw 32" in str(model.out_of_design(30))
    assert model.out_of_design(24) is None
    retrieving = model.with_selection("landmark:block=4,top=1,local=2")
    assert retrieving.out_of_design(10_000) is None  # 20 positions
    with pytest.raises(UserError, match="trained without"):
        initialised.model(tiny.config(tmp_path), tmp_path).with_selection("landmark")
