"""Plans and feeds: how long rows are, what is drawn for them, and what a run is said to cost."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from lmarch.config import Config
from lmarch.data.feed import Feed
from lmarch.data.packing import Budget
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.objectives import Batch, objective_for
from lmarch.training import setup

BYTES = load_tokenizer("bytes")


def config(folder: Path, architecture: str = "encoder_decoder", **changes: Any) -> Config:
    return tiny.config(folder, model__architecture=architecture, **changes)


def test_source_and_text_are_placed_by_draws_of_their_own(tmp_path: Path) -> None:
    """Equal lengths on both sides would otherwise meet at equal positions in every row."""
    sampler, objective = "randomized:maximum=500", "span_corruption:density=0.5"
    changes = dict(data__position_sampler=sampler, data__objective=objective, data__target_length=32)
    feed = make_plan(config(tmp_path, **changes)).feed(BYTES)
    text = np.random.default_rng(0).integers(60, 120, (8, 20))
    batch = feed(text, np.zeros(text.shape, np.int32), 0, range(8), sample=True)
    both = [(ids >= 0).sum(1) for ids in (batch.segment_ids, batch.source_segment_ids)]
    assert (both[0] == both[1]).all()
    for row, length in enumerate(both[0]):
        assert not np.array_equal(batch.positions[row, :length], batch.source_positions[row, :length])


PLACED = {
    "documents apart": dict(),
    "a row one text": dict(data__mask_documents=False, data__restart_positions=False),
    "counted through documents apart": dict(data__restart_positions=False),
    "counted anew in one text": dict(data__mask_documents=False),
    "prefix": dict(architecture="prefix_decoder"),
    "source and text": dict(architecture="encoder_decoder", data__objective="ul2"),
    "spans in any order": dict(
        architecture="prefix_decoder", data__objective="blank_infilling", model__block_positions="rotary"
    ),
    "landmarks": dict(model__selection="landmark:block=4"),
    "problems": dict(data__tasks=({"task": "copy", "share": 0.5},)),
    "problems in a row that is one text": dict(
        data__mask_documents=False, data__restart_positions=False, data__tasks=({"task": "copy", "share": 0.5},)
    ),
}


@pytest.mark.parametrize("case", PLACED)
def test_positions_are_left_out_exactly_where_they_are_ranks(case: str, tmp_path: Path, monkeypatch) -> None:
    made = config(tmp_path, **{"architecture": "causal_decoder", **PLACED[case]})
    rng = np.random.default_rng(0)
    tokens = rng.integers(60, 120, (20, make_plan(made).text_length + 1))
    documents = np.cumsum(rng.random(tokens.shape) < 0.1, axis=1)
    documents[:5, -4:] = -1
    if made.model.architecture != "causal_decoder":
        tokens, documents = tokens[:, :16], documents[:, :16]  # what is asked may take more room than the text

    def fed() -> Batch[np.ndarray]:
        return make_plan(made).feed(BYTES)(tokens, documents, 0, range(20), sample=True)

    left_out = fed()
    monkeypatch.setattr(Feed, "counts", False)
    given = fed()
    sides = [(given.positions, given.segment_ids), (given.source_positions, given.source_segment_ids)]
    are_ranks = all(
        np.array_equal(positions[ids >= 0], ranks(ids)[ids >= 0]) for positions, ids in sides if ids is not None
    )
    assert (left_out.positions is None) == are_ranks
    if are_ranks:
        given = given._replace(positions=None, source_positions=None)
    jax.tree.map(np.testing.assert_array_equal, left_out, given)


def ranks(segment_ids: np.ndarray) -> np.ndarray:
    """Of each token in its run of equal ids."""
    runs = [[list(run) for _, run in itertools.groupby(row)] for row in segment_ids]
    return np.array([[rank for run in row for rank in range(len(run))] for row in runs])


def test_positions_are_left_out_of_validation_that_samples_none(tmp_path: Path) -> None:
    feed = make_plan(config(tmp_path, "causal_decoder", data__position_sampler="pose:target_length=64")).feed(BYTES)
    text = np.full((2, 33), 97)
    trained, validated = (feed(text, np.zeros_like(text), 0, range(2), sample=sample) for sample in (True, False))
    assert trained.positions is not None
    assert trained.positions.max() > 32
    assert validated.positions is None


@pytest.mark.parametrize("objective", ["span_corruption", "span_corruption:density=0.5,mean_span=32", "ul2"])
def test_an_encoders_rows_are_filled_as_far_as_a_text_fits(objective: str, tmp_path: Path) -> None:
    sizes = dict(model__trained_length=256, data__objective=objective)
    plan = make_plan(config(tmp_path, **sizes))
    assert plan.budget is not None
    longest = plan.budget.longest_piece((0, 0), 10_000)
    fits, too_long = plan.objective.largest(longest), plan.objective.largest(longest + 3)
    assert fits.inputs <= 256
    assert fits.targets <= plan.limits[1] <= 256
    assert too_long.inputs > 256 or too_long.targets > 256


def test_sentinels_are_only_missed_where_a_text_would_fit() -> None:
    few = objective_for("span_corruption:sentinels=4", "causal_decoder")
    assert (
        Budget(few, (94,)).longest_piece((0,), 1000) == 84
    )  # 85 tokens are too many for the row, 91 for the sentinels
    with pytest.raises(UserError, match="sentinels=4 are too few"):
        Budget(few, (500,)).longest_piece((0,), 1000)


def test_special_tokens_come_after_the_tokenizers_and_stand_for_no_bytes(tmp_path: Path) -> None:
    plan = make_plan(config(tmp_path, data__objective="span_corruption:sentinels=9"))
    feed = plan.feed(BYTES)
    assert plan.vocabulary_size(BYTES) == 280  # 264 + 9, a multiple of 8
    assert feed.byte_lengths.shape == (280,)
    assert feed.byte_lengths[BYTES.vocab_size :].sum() == 0


@pytest.mark.parametrize("architecture", ["causal_decoder", "prefix_decoder", "encoder_decoder"])
def test_costs_are_counted_document_by_document_and_without_padding(architecture: str, tmp_path: Path) -> None:
    made = config(tmp_path, architecture, train__steps=10)
    plan, definition = make_plan(made), ModelDefinition(made.model, 264)
    tokens = np.full((8, 33), 97)
    documents = np.repeat([[0] * 13 + [1] * 15 + [-1] * 5], 8, axis=0)
    feed = plan.feed(BYTES)
    batches = SimpleNamespace(
        training=SimpleNamespace(batch=lambda n: feed(tokens, documents, 0, range(8), sample=True))
    )
    counts = setup._counts(made, definition, batches)
    batch, expected = batches.training.batch(0), 0.0
    for row in range(8):
        for document in (0, 1):
            own = int((batch.segment_ids[row] == document).sum())
            given = int((batch.source_segment_ids[row] == document).sum()) if batch.source_tokens is not None else 0
            place = batch.segment_ids[row].tolist().index(document)
            prefix = int(batch.prefix_lengths[row, place]) if batch.prefix_lengths is not None else 0
            expected += definition.training_flops(own, prefix=prefix, source=given) / 8
    np.testing.assert_allclose(counts["training_flops"], expected * 8 * 10)
    read = counts["tokens_per_row"] + counts["source_tokens_per_row"]
    assert read == 28  # two documents of 13 and 15: an encoder-decoder reads a start token and not the last one
    assert counts["loss_tokens"] == batch.weights.sum() * 10
