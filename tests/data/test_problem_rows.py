"""Rows of problems among rows of text."""

import dataclasses
import functools
import operator
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from lmarch.config import Config
from lmarch.data.loader import Loader, sequential_batches
from lmarch.data.packing import pack
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.objectives import Batch

BYTES = load_tokenizer("bytes")
TASKS = ({"task": "copy", "share": 0.3}, {"task": "mqar:pairs=2", "share": 0.2})


def batch(config: Config, n: int = 0) -> Batch[np.ndarray]:
    plan = make_plan(config)
    rows = pack(config.data, "train", plan.text_length, BYTES, plan.budget)
    return Loader(rows, config.data.batch_rows, config.data.seed, plan.feed(BYTES)).batch(n)


def is_copy(row: np.ndarray) -> bool:
    return bool((row == ord("!")).any())


def test_rows_are_drawn_by_their_shares_and_the_rest_of_the_text_stays_as_it_was(tmp_path: Path) -> None:
    plain = batch(tiny.config(tmp_path, data__batch_rows=400))
    mixed = batch(tiny.config(tmp_path, data__batch_rows=400, data__tasks=TASKS))
    changed = (plain.tokens != mixed.tokens).any(-1)
    assert changed.mean() == pytest.approx(0.5, abs=0.08)
    assert np.mean([is_copy(row) for row in mixed.tokens[changed]]) == pytest.approx(0.6, abs=0.1)
    for ours, theirs in zip(jax.tree.leaves(mixed), jax.tree.leaves(plain), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_array_equal(ours[~changed], theirs[~changed])


def test_a_row_holds_several_problems_that_are_kept_apart_and_only_answers_are_scored(tmp_path: Path) -> None:
    config = tiny.config(tmp_path, data__tasks=({"task": "copy", "share": 1},), data__batch_rows=50)
    made = batch(config)
    lengths = []
    for row in range(50):
        segments = made.segment_ids[row]
        for number in range(segments.max() + 1):
            own = segments == number
            tokens, targets, weights = (column[row][own] for column in (made.tokens, made.targets, made.weights))
            assert np.diff(np.flatnonzero(own)).max() == 1  # a run, in which the model counts positions
            assert tokens[0] == BYTES.bos
            mark = int(np.flatnonzero(tokens == ord("!"))[0])
            answering = (np.arange(len(tokens)) >= mark) & (tokens != BYTES.eos)  # nothing follows the end
            np.testing.assert_array_equal(weights, answering)
            said = targets[answering][: mark - 1]
            np.testing.assert_array_equal(said, tokens[1 : 1 + len(said)])
            lengths.append(int(own.sum()))
    assert max(lengths) == 32  # the last position of a row is trained too
    assert len(set(lengths)) > 8
    assert (made.segment_ids >= 0).mean() > 0.8


@pytest.mark.parametrize("architecture", ["causal_decoder", "prefix_decoder", "encoder_decoder"])
@pytest.mark.parametrize("task", ["copy", "mqar:pairs=2", "needle:digits=2", "induction", "state_tracking"])
def test_problems_are_laid_out_for_every_architecture(architecture: str, task: str, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, model__architecture=architecture, data__tasks=({"task": task, "share": 1},))
    made = batch(config)
    assert (made.weights.sum(-1) > 0).all()
    if architecture == "encoder_decoder":
        asked = [BYTES.decode(row) for row in made.source_tokens]
        assert all(asked)
        assert (made.tokens[:, 0] == BYTES.bos).all()
    if architecture == "prefix_decoder":
        scored = made.weights > 0
        first = made.segment_ids[:, :, None] == np.arange(32)  # the documents of each row, at 0, 1, ...
        ranks = np.arange(32) - np.take_along_axis(first.argmax(1), np.maximum(made.segment_ids, 0), 1)
        assert (made.prefix_lengths[scored] <= ranks[scored] + 1).all()


def test_a_batch_is_a_function_of_its_number_alone(tmp_path: Path) -> None:
    config = tiny.config(tmp_path, data__tasks=TASKS)
    first, again, other = batch(config, 3), batch(config, 3), batch(config, 4)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.tokens != other.tokens).any()


def test_validation_reads_text_alone_unless_there_is_none_in_training(tmp_path: Path) -> None:
    def validation(tasks: tuple) -> Batch[np.ndarray]:
        config = tiny.config(tmp_path, data__tasks=tasks)
        plan = make_plan(config)
        rows = pack(config.data, "validation", plan.text_length, BYTES, plan.budget)
        return next(sequential_batches(rows, 8, plan.feed(BYTES, "validation")))

    plain, mixed, all_problems = (validation(tasks) for tasks in ((), TASKS, ({"task": "copy", "share": 1.0},)))
    np.testing.assert_array_equal(plain.tokens, mixed.tokens)
    assert all(is_copy(row) for row in all_problems.tokens)


def test_validation_has_other_problems_than_training_with_the_same_seed_and_number(tmp_path: Path) -> None:
    plan = make_plan(tiny.config(tmp_path, data__tasks=({"task": "copy", "share": 1.0},)))
    tokens = np.zeros((8, 33), np.int32)
    made = [plan.feed(BYTES, split)(tokens, tokens, 0, range(8), sample=False) for split in ("train", "validation")]
    assert (made[0].tokens != made[1].tokens).any(-1).all()


def test_shares_may_sum_to_one_by_rounding(tmp_path: Path) -> None:
    thirds = tuple(
        {"task": task, "share": share} for task, share in (("copy", 0.7), ("reverse", 0.2), ("induction", 0.1))
    )
    assert 0.7 + 0.2 + 0.1 != 1  # in this order; Python 3.12 sums more exactly
    plan = make_plan(tiny.config(tmp_path, data__tasks=thirds))
    assert plan.feed(BYTES, "validation").problems is not None
    shares = (0.2, 0.4, 0.3, 0.1)
    assert functools.reduce(operator.add, shares) > 1
    assert tiny.config(tmp_path, data__tasks=tuple({"task": "copy", "share": share} for share in shares))


@pytest.mark.parametrize(
    ("architecture", "objective"),
    [("encoder_decoder", "span_corruption:density=0.5,sentinels=9"), ("prefix_decoder", "blank_infilling")],
)
def test_problems_fit_rows_of_objectives_whose_sides_differ(architecture: str, objective: str, tmp_path: Path) -> None:
    tasks = ({"task": "mqar:pairs=1", "share": 0.5},)
    changes = dict(model__architecture=architecture, data__objective=objective, data__tasks=tasks)
    if objective == "blank_infilling":
        changes["model__block_positions"] = "rotary"
    plan = make_plan(tiny.config(tmp_path, **changes))
    rows = pack(plan.config.data, "train", plan.text_length, BYTES, plan.budget)
    mixed, text = (
        Loader(rows, 60, 0, feed).batch(0)
        for feed in (plan.feed(BYTES), dataclasses.replace(plan.feed(BYTES), problems=None))
    )
    is_problem = (mixed.tokens != text.tokens).any(-1)
    assert 15 < is_problem.sum() < 45
    assert mixed.tokens.shape == (60, plan.limits[-1])
    assert (mixed.block_positions is not None) == plan.objective.places_in_spans


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (({"task": "copy", "share": 0.7}, {"task": "reverse", "share": 0.4}), "is what their shares sum to"),
        (({"task": "copy", "share": 0},), r"tasks\[0\].share=0 must be a share of the rows"),
        (({"task": "copy"},), "must give `task` and `share`"),
        (({"task": "kopy", "share": 0.5},), "unknown task 'kopy'; did you mean 'copy'"),
        (({"task": "needle:keys=9", "share": 0.5},), "has no problem of 32 tokens: the shortest has 89"),
    ],
)
def test_wrong_tasks_are_refused_before_training(tasks: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(tiny.config(tmp_path, data__tasks=tasks))


def test_a_run_without_tasks_keeps_the_name_it_had_before_there_were_any(tmp_path: Path) -> None:
    with_none, with_some = (tiny.config(tmp_path, data__tasks=tasks) for tasks in ((), TASKS))
    assert "tasks" not in with_none.meaningful()["data"]
    assert with_none.fingerprint() != with_some.fingerprint()
