"""Rows cut into documents: single tokens are left alone, rows may be empty, and documents are asked about independently."""

from collections import Counter

import numpy as np
import pytest

from lmarch.data.questions import Questions
from lmarch.objectives import Batch, Collator, Draws, Vocabulary, objective_for

WORDS = Vocabulary(bos=256, eos=257, pad=258, first_special=264)
BYTES = np.ones(1000, np.int32)


def asked(objective: str, documents: np.ndarray, numbers: np.ndarray, architecture: str) -> Batch[np.ndarray]:
    tokens = np.tile(np.arange(documents.shape[1], dtype=np.uint16), (len(documents), 1))
    collator = Collator(architecture, (100, 100), WORDS, places_in_spans=objective == "blank_infilling")
    made = Questions(objective_for(objective, architecture), collator)
    return made.batch(tokens, documents, BYTES, Draws.of_rows(0, 1, numbers))


@pytest.mark.parametrize("objective", ["prefix_lm", "span_corruption", "ul2", "blank_infilling"])
def test_a_single_token_is_read_and_nothing_is_asked_about_it(objective: str) -> None:
    """At the start of a row, between documents, twice in a row, and at its end."""
    documents = np.array([[0, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 4, 5], [7] * 12 + [-1]])
    batch = asked(objective, documents, np.arange(2), "prefix_decoder")
    for segment, token in ((0, 0), (2, 5), (3, 6), (5, 12)):
        own = batch.segment_ids[0] == segment
        assert batch.tokens[0][own].tolist() == [token]
        assert batch.weights[0][own].tolist() == [0]
        assert batch.prefix_lengths[0][own].tolist() == [1]
    for segment in (1, 4):
        assert batch.weights[0][batch.segment_ids[0] == segment].sum() > 0
    assert batch.segment_ids[1].max() == 0


@pytest.mark.parametrize("objective", ["prefix_lm", "span_corruption", "ul2"])
@pytest.mark.parametrize("architecture", ["prefix_decoder", "encoder_decoder"])
def test_rows_without_text_are_padding(objective: str, architecture: str) -> None:
    """A validation's last batch may have nothing else on one of several hosts."""
    documents = np.full((3, 9), -1)
    batch = asked(objective, documents, np.arange(3), architecture)
    assert (batch.segment_ids == -1).all()
    assert (batch.tokens == WORDS.pad).all()
    assert batch.weights.sum() == batch.target_bytes.sum() == 0
    documents[1] = 0
    among = asked(objective, documents, np.arange(3), architecture)
    alone = asked(objective, documents[1:2], np.array([1]), architecture)
    assert np.array_equal(among.tokens[1:2], alone.tokens)
    assert (among.segment_ids[[0, 2]] == -1).all()


def test_documents_of_a_row_are_asked_about_independently() -> None:
    documents = np.tile(np.repeat([3, 4], 5), (8_000, 1))
    batch = asked("prefix_lm", documents, np.arange(8_000), "prefix_decoder")
    pairs = Counter(zip(batch.prefix_lengths[:, 0].tolist(), batch.prefix_lengths[:, 5].tolist(), strict=True))
    assert len(pairs) == 16
    assert sum((n - 500) ** 2 / 500 for n in pairs.values()) < 37.7  # chi-square, 15 degrees of freedom: 1 in 1,000
