"""Training text in test documents is found, whatever stands around it."""

import numpy as np
import pytest

from lmarch.data.runs_of_words import RUN
from lmarch.evaluation.contamination import overlap


def words(seed: int, count: int) -> list[str]:
    return [f"w{n}" for n in np.random.default_rng(seed).integers(0, 500, count)]


def document(*parts: list[str]) -> str:
    return " ".join(word for part in parts for word in part)


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
    assert overlap([document(said)], ["\n\n".join(said)]) == 1
    assert overlap([document(said)], [document(said[::-1])]) == 0


def test_documents_too_short_for_a_run_say_nothing() -> None:
    assert overlap([document(words(0, 50))], [document(words(0, RUN - 1))]) is None
    assert overlap([], [document(words(0, 50))]) == 0


def test_scripts_without_spaces_are_read_character_by_character() -> None:
    """The same text in both splits once gave 0.0 %: it was one word."""
    rng = np.random.default_rng(0)
    chinese = ["".join(chr(0x4E00 + n) for n in rng.integers(0, 3000, 200)) for _ in range(2)]
    assert overlap([chinese[0]], [chinese[0]]) == 1
    assert overlap([chinese[0]], [chinese[1]]) == 0
    assert overlap([chinese[0]], [chinese[0][50:70] + chinese[1]]) == pytest.approx((20 - RUN + 1) / (220 - RUN + 1))
    thai = "".join(chr(0x0E01 + n) for n in rng.integers(0, 40, 100))
    assert overlap([f"and then {thai} again"], [thai]) == 1
