"""Rows with landmarks are the rows without, and landmarks: nothing else is scored, and nothing is lost."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmarch.config import Config
from lmarch.data.assembly import assemble
from lmarch.data.landmarks import Landmarks
from lmarch.data.loader import Loader, sequential_batches
from lmarch.data.packing import Rows, pack
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError

BYTES = load_tokenizer("bytes")
BLOCK = 4
LANDMARK = BYTES.vocab_size


def config(folder: Path, selection: str | None = f"landmark:block={BLOCK}", **changes: Any) -> Config:
    return tiny.config(folder, model__selection=selection, **changes)


def rows_of(made: Config) -> Rows:
    plan = make_plan(made)
    return pack(made.data, "train", plan.text_length, BYTES, plan.budget)


@pytest.mark.parametrize("row_length", [8, 9, 10, 11, 12, 13, 32])
@pytest.mark.parametrize("documents", ["apart", "joined"])
def test_a_row_is_its_text_with_landmarks_in_it(row_length: int, documents: str, tmp_path: Path) -> None:
    options = dict(mask_documents=documents == "apart", restart_positions=documents == "apart")
    changes = {f"data__{name}": value for name, value in options.items()}
    made = config(tmp_path, data__row_length=row_length, **changes)
    rng, shape = np.random.default_rng(row_length), (40, make_plan(made).text_length + 1)
    tokens = rng.integers(0, 256, shape).astype(np.uint16)
    owners = np.cumsum(rng.random(shape) < 0.2, axis=1)  # documents of a token or more, and some padding
    owners[:5, -3:] = -1
    batch = make_plan(made).feed(BYTES)(tokens, owners, 0, range(40), sample=True)
    plain = assemble(tokens, owners, BYTES.byte_lengths, **options)

    fed = batch.tokens
    assert fed.shape[1] in (row_length, row_length - 1)  # of which the last would be before a landmark
    marks = np.arange(fed.shape[1]) % (BLOCK + 1) == BLOCK
    assert np.array_equal(fed == LANDMARK, np.broadcast_to(marks, fed.shape))
    assert np.array_equal(fed[:, ~marks], plain.tokens)

    scored, before = batch.weights > 0, plain.weights > 0
    assert not (batch.targets == LANDMARK)[scored].any()
    for row in range(40):
        assert np.array_equal(batch.targets[row, scored[row]], plain.targets[row, before[row]])
    assert np.array_equal(batch.target_bytes, plain.target_bytes)
    assert scored[:, marks].any()  # the token behind a landmark is the landmark's target
    assert not scored[:, :-1][:, marks[1:]].any()  # the last token of a block would have the landmark as its target

    segments = batch.segment_ids
    assert np.array_equal(segments[:, ~marks], plain.segment_ids)
    assert np.array_equal(segments[:, 1:][:, marks[1:]], segments[:, :-1][:, marks[1:]])  # that of the token before
    assert batch.positions is None  # ranks in the segments: landmarks take positions
    assert (segments[:, :-3].max() > 0) == (documents == "apart")


def test_every_token_but_the_first_of_a_document_is_scored_once(tmp_path: Path) -> None:
    made = config(tmp_path)
    rows, feed = rows_of(made), make_plan(made).feed(BYTES)
    batches = list(sequential_batches(rows, 8, feed))
    count = sum(batch.weights.sum() for batch in batches)
    assert count == rows.num_tokens - rows.num_documents
    assert sum(batch.target_bytes.sum() for batch in batches) == BYTES.byte_lengths[rows.tokens[:, 1:]].sum()


def test_a_batch_of_training_has_them_too(tmp_path: Path) -> None:
    made = config(tmp_path)
    batch = Loader(rows_of(made), 8, 0, make_plan(made).feed(BYTES)).batch(3)
    assert (batch.tokens[:, BLOCK :: BLOCK + 1] == LANDMARK).all()
    assert batch.tokens.shape == (8, 32)


@pytest.mark.parametrize("block", [1, 2, 4, 50])
def test_rooms_and_lengths(block: int) -> None:
    landmarks = Landmarks(block, 99)
    for length in range(1 + block, 130):
        room = landmarks.room(length)
        assert landmarks.length(room) <= length < landmarks.length(room + 1)
        assert length - landmarks.length(room) <= 1
    for count in range(1, 70):
        text = np.arange(count)[None]
        made = landmarks.inserted(text)[0]
        assert len(made) == landmarks.length(count)
        assert np.array_equal(made[made != 99], text[0])
        assert np.array_equal(np.flatnonzero(made == 99) % (block + 1), np.full(count // block, block))
        if count % 23 == 0:  # of a device's tokens too, where each length is compiled
            assert np.array_equal(landmarks.inserted(jnp.asarray(text))[0], made)
        assert landmarks.spread(text)[0, made == 99].tolist() == (text[0, block - 1 :: block]).tolist()


def test_what_is_said_after_a_token_is_read_behind_its_landmark() -> None:
    landmarks, text = Landmarks(3, 99), jnp.arange(8)[None]

    def apply(params: None, tokens: Any, last: int) -> Any:
        """Says what it read, and where."""
        return jnp.stack([tokens, jnp.arange(tokens.shape[1])[None]], axis=-1)[:, -last:]

    said = landmarks.logits(apply, None, text)[0]
    assert said[:, 0].tolist() == [0, 1, 99, 3, 4, 99, 6, 7]
    assert said[:, 1].tolist() == [0, 1, 3, 4, 5, 7, 8, 9]
    for last in range(1, 9):
        assert np.array_equal(landmarks.logits(apply, None, text, last=last)[0], said[-last:])


def test_a_new_token_brings_a_landmark_where_one_is_due() -> None:
    landmarks = Landmarks(3, 99)
    text = np.arange(20)
    made, index = [], 0
    for token in text:
        pair, new = landmarks.behind(jnp.asarray([token]), jnp.asarray([index]))
        made += pair[0, : int(new[0])].tolist()
        index = len(made)
    assert made == landmarks.inserted(text[None])[0].tolist()


def test_the_vocabulary_grows_by_the_landmark(tmp_path: Path) -> None:
    assert LANDMARK % 8 == 0  # or the sizes below would not tell
    for selection, size in ((None, LANDMARK), (f"landmark:block={BLOCK}", LANDMARK + 1)):
        plan = make_plan(config(tmp_path, selection))
        assert plan.vocabulary_size(BYTES) == -(-size // 8) * 8
        feed = plan.feed(BYTES)
        assert len(feed.byte_lengths) == plan.vocabulary_size(BYTES)
        assert feed.byte_lengths[LANDMARK:].sum() == 0
    assert make_plan(config(tmp_path, None)).landmarks(BYTES) is None
    assert make_plan(config(tmp_path)).landmarks(BYTES) == Landmarks(BLOCK, LANDMARK)


def test_some_layers_may_be_without_landmarks(tmp_path: Path) -> None:
    layers = ({"selection": "landmark:block=4"}, {"window": "sliding:size=5"})
    assert make_plan(config(tmp_path, None, model__layers=layers)).landmark_block == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__objective": "prefix_lm"}, "causal_decoder with prefix_lm has no place for them"),
        ({"data__objective": "causal_lm:loss=suffix"}, "loss=suffix has no place"),
        ({"model__architecture": "encoder_decoder"}, "encoder_decoder with prefix_lm"),
        ({"data__position_sampler": "randomized:maximum=64"}, "leave it out"),
        ({"selection": "landmark:block=4,top=2"}, "leave top out"),
        ({"selection": "landmark:block=32"}, "block=32 must be below"),
        (
            {"model__layers": [{"selection": "landmark:block=4"}, {"selection": "landmark:block=5"}]},
            "after 4 and after 5",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(config(tmp_path, **changes))
