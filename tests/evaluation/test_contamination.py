"""Training text in test documents is found, whatever stands around it."""

import numpy as np
import pytest

from lmarch.data.documents import Document
from lmarch.evaluation.contamination import RUN, overlap


def words(seed: int, count: int) -> list[str]:
    return [f"w{n}" for n in np.random.default_rng(seed).integers(0, 500, count)]


def document(*parts: list[str]) -> Document:
    return Document("d", " ".join(word for part in parts for word in part))


def test_unlike_texts_share_nothing_and_a_text_shares_all_with_itself() -> None:
    trained = [document(words(0, 400)), document(words(1, 300))]
    assert overlap(trained, [document(words(2, 300))]) == 0
    assert overlap(trained, trained) == 1


def test_the_share_is_that_of_runs_inside_the_copied_part() -> None:
    copied = words(0, 400)[100:140]
    tested = [document(words(3, 60), copied, words(4, 60))]
    assert overlap([document(words(0, 400))], tested) == pytest.approx((40 - RUN + 1) / (160 - RUN + 1))
    assert overlap([document(words(0, 400))], [document(words(5, 50), copied[: RUN - 1], words(6, 50))]) == 0


def test_white_space_does_not_matter_and_order_does() -> None:
    said = words(0, 50)
    assert overlap([document(said)], [Document("d", "\n\n".join(said))]) == 1
    assert overlap([document(said)], [document(said[::-1])]) == 0


def test_documents_too_short_for_a_run_say_nothing() -> None:
    assert overlap([document(words(0, 50))], [document(words(0, RUN - 1))]) == 0
