"""Synthetic tasks in an evaluation: answers that are known, intervals, depths, and what greedy decoding says."""

import dataclasses
from pathlib import Path

import alone
import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from measured import evaluate, rows_of

from lmarch.data.material import material
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.evaluation import scoring
from lmarch.evaluation.items import Items
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.problems import as_items, draw, last_tokens
from lmarch.evaluation.scoring import Scores, score
from lmarch.evaluation.statistics import ratio
from lmarch.tasks import TASKS

BYTES = load_tokenizer("bytes")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Has learned to copy up to three of two symbols, more or less."""
    folder = tmp_path_factory.mktemp("copying")
    tasks = ({"task": "copy:alphabet=2", "share": 0.9},)
    changes = dict(model__trained_length=8, data__batch_rows=64, train__steps=150, train__learning_rate=1e-2)
    made = initialised.model(tiny.config(folder, data__tasks=tasks, **changes), folder / "run")
    params, _ = alone.steps(made.config, made.definition, alone.batches(made.config, 150))
    return dataclasses.replace(made, trained_params=params)


def items_of(spelling: str, length: int, count: int, model) -> Items:
    task, made_of = TASKS.build(spelling), material(model.config.data, "validation", BYTES)
    return as_items(draw(task, made_of, length, count, seed=0), task, BYTES, seed=0)


def value(items: Items, scores: Scores, metric: str) -> float:
    pairing = Pairing(items, metric)
    return ratio(pairing.per_document(scores), pairing.sizes_D)


@pytest.mark.parametrize("spelling", ["copy", "mqar:pairs=3", "needle:digits=3"])
def test_an_oracle_is_always_right_and_a_constant_answer_as_often_as_it_is_the_target(spelling: str, model) -> None:
    items = items_of(spelling, 40, 60, model)
    targets = items.rows_NT[:, -items.targets :]
    oracle = Scores(np.zeros(targets.shape, np.float32), np.ones(targets.shape, bool), 1.0)
    assert value(items, oracle, "exact_match") == value(items, oracle, "accuracy") == 1
    # What is not scored does not count.
    unscored = dataclasses.replace(oracle, hits_NS=items.scored_NS)
    assert value(items, unscored, "exact_match") == value(items, unscored, "accuracy") == 1
    constant = int(targets[items.scored_NS][0])
    guess = Scores(oracle.nll_NS, targets == constant, 1.0)
    assert 0 < value(items, guess, "accuracy") == pytest.approx((targets == constant)[items.scored_NS].mean())
    one_wrong = items.scored_NS.copy()
    first = np.argmax(items.scored_NS, axis=1)
    one_wrong[np.arange(len(first)), first] = False
    assert value(items, dataclasses.replace(oracle, hits_NS=one_wrong), "exact_match") == 0


def test_teacher_forced_exact_match_is_what_greedy_decoding_says(model) -> None:
    """On 60 problems, right and wrong ones among them."""
    task, made_of = TASKS.build("copy:alphabet=2"), material(model.config.data, "validation", BYTES)
    problems = [problem for length in (4, 8, 12) for problem in draw(task, made_of, length, 20, seed=3)]
    forced, decoded = [], []
    for length in (4, 8, 12):
        own = [p for p in problems if len(p.example.inputs) + len(p.example.targets) - 1 == length]
        forced += score(model, as_items(own, task, BYTES, 0), lambda done: None).hits_NS.all(-1).tolist()
    for problem in problems:
        said = problem.example.inputs
        for _ in problem.example.targets:  # greedily, token by token, each from a pass of its own, padded to one shape
            logits = model.logits(np.pad(said, (0, 13 - len(said)))[None])[0, len(said) - 1]
            said = np.append(said, int(jnp.argmax(logits)))
        decoded.append(bool((said[len(problem.example.inputs) :] == problem.example.targets).all()))
    assert forced == decoded
    assert 0.1 < np.mean(forced) < 0.95


def test_trained_tasks_are_asked_without_being_named(model) -> None:
    assert evaluate(model, [("eval.suite", "smoke"), ("eval.lengths", "8,16"), ("eval.methods", "rope")]) == 0
    rows = [row for row in rows_of(model) if row["task"] == "problems"]
    assert {row["corpus"] for row in rows} == {"copy:alphabet=2"}
    assert {(row["length"], row["metric"]) for row in rows} == {
        (length, metric) for length in (8, 16) for metric in ("exact_match", "accuracy", "nll")
    }
    found = {(row["length"], row["metric"]): row for row in rows}
    assert found[8, "exact_match"]["value"] > found[16, "exact_match"]["value"]
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in rows)
    assert found[8, "exact_match"]["n"] == 40


def test_the_crop_control_is_the_trained_model_on_the_last_tokens_of_the_same_problems(model) -> None:
    chosen = {"suite": "smoke", "lengths": "8,12", "methods": "rope,rerope", "parts": "problems", "seed": "5"}
    assert evaluate(model, [(f"eval.{name}", text) for name, text in chosen.items()]) == 0
    rows = {(row["label"], row["length"], row["metric"]): row for row in rows_of(model) if row["task"] == "problems"}
    task, made_of = TASKS.build("copy:alphabet=2"), material(model.config.data, "validation", BYTES)
    whole = as_items(draw(task, made_of, 12, 40, seed=5), task, BYTES, seed=5)
    cut = dataclasses.replace(whole, rows_NT=whole.rows_NT[:, -9:], given=None)  # 8 tokens and the last target
    scores = score(model, cut, lambda done: None)
    for metric, sign in (("exact_match", 1), ("accuracy", 1), ("nll", -1)):
        expected = value(cut, scores, metric)
        for label in ("rope", "rerope"):
            row = rows[label, 12, metric]
            assert row["crop"] == pytest.approx(expected, rel=1e-5)
            assert row["gain"] == pytest.approx(sign * (row["value"] - expected), abs=1e-5)
            assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        within = rows["rope", 8, metric]
        assert (within["crop"], within["gain"]) == (within["value"], 0)  # nothing is cut off


def test_an_answer_longer_than_the_trained_length_has_no_crop_control(model) -> None:
    items = items_of("copy", 40, 4, model)
    assert items.targets == 20
    assert last_tokens(items, 19) is None
    kept = last_tokens(items, 24)
    assert kept is not None
    np.testing.assert_array_equal(kept.rows_NT, items.rows_NT[:, -25:])
    assert (kept.length, kept.given) == (24, items.given - 16)
    assert last_tokens(items, 40) is last_tokens(items, 64) is items


def test_text_and_problems_of_a_length_share_their_programs(model) -> None:
    scoring._COMPILED.clear()
    chosen = {"suite": "smoke", "lengths": "8,32", "methods": "rope,rerope", "tasks": "needle:digits=1", "seed": "6"}
    assert evaluate(model, [(f"eval.{name}", text) for name, text in chosen.items()]) == 0
    assert {row["task"] for row in rows_of(model)} == {"paired", "problems", "by_depth"}
    assert sum(map(len, scoring._COMPILED.values())) == 4


def test_a_needle_is_measured_at_ten_depths(model, capsys) -> None:
    chosen = {"suite": "smoke", "lengths": "8,32", "methods": "rope", "parts": "problems", "tasks": "needle:digits=2"}
    assert evaluate(model, [(f"eval.{name}", text) for name, text in chosen.items()]) == 0
    assert "left out: task needle:digits=2 has no problem of 8 tokens" in capsys.readouterr().out
    rows = [row for row in rows_of(model) if row["task"] == "by_depth"]
    assert [row["depth"] for row in rows] == pytest.approx(np.arange(0.05, 1, 0.1))
    assert {row["n"] for row in rows} == {4}
    distances = [row["distance"] for row in rows]
    assert distances == sorted(distances, reverse=True)


def test_problems_are_the_same_for_every_method_and_made_again_bit_by_bit(model) -> None:
    first, again = (items_of("needle:digits=2", 64, 20, model) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    task, made_of = TASKS.build("needle:digits=2"), material(model.config.data, "validation", BYTES)
    other = as_items(draw(task, made_of, 64, 20, seed=1), task, BYTES, seed=1)
    assert first.fingerprint != other.fingerprint


def test_the_interval_of_a_share_is_wilsons() -> None:
    """10 of 10 right say at least 72 %, as in evaluation.md."""
    rows = np.zeros((10, 5), np.int32)
    ones = np.ones((10, 2), np.int32)
    items = Items(rows, ones, ones > 0, np.arange(10), None, 0, {})
    pairing = Pairing(items, "exact_match")
    found = pairing.value(np.ones(10), "value", "ci")
    assert found["value"] == 1
    assert found["ci_low"] == pytest.approx(0.7225, abs=1e-4)
    assert found["ci_high"] == pytest.approx(1)
    none = pairing.value(np.zeros(10), "value", "ci")
    assert (none["ci_low"], none["ci_high"]) == pytest.approx((0, 1 - 0.7225), abs=1e-4)


def test_an_unknown_task_or_part_is_refused_before_anything_is_measured(model) -> None:
    with pytest.raises(UserError, match="unknown task 'copie'; did you mean 'copy'"):
        evaluate(model, [("eval.tasks", "copie")])
    with pytest.raises(UserError, match="unknown part 'pared' of an evaluation; did you mean 'paired'"):
        evaluate(model, [("eval.parts", "pared")])


@pytest.mark.parametrize("architecture", ["prefix_decoder", "encoder_decoder"])
def test_other_architectures_are_given_the_problem_and_say_the_answer(architecture: str, tmp_path: Path) -> None:
    tasks = ({"task": "copy", "share": 1.0},)
    model = initialised.model(tiny.config(tmp_path, model__architecture=architecture, data__tasks=tasks), tmp_path)
    items = items_of("copy", 16, 6, model)
    scores = score(model, items, lambda done: None)
    for row, nll in zip(items.rows_NT, scores.nll_NS, strict=True):
        given, said = row[: items.given][None], row[items.given :][None]
        if architecture == "encoder_decoder":
            logits = model.logits(given, said)
        else:
            logits = model.logits(row[None, :-1], prefix_length=items.given)[:, -said.shape[1] :]
        expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), said[..., None], -1)[0, :, 0]
        np.testing.assert_allclose(nll, expected, atol=1e-5)
