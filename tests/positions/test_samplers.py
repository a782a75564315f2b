"""Sampled positions: their range and order, one draw per document, the same for the same seed on any number of hosts."""

import numpy as np
import pytest

from lmarch.data.assembly import sample_positions
from lmarch.errors import UserError
from lmarch.positions import SAMPLERS


def draws(variant: str, length: int, count: int = 200) -> np.ndarray:
    sampler = SAMPLERS.build(variant)
    return np.stack([sampler.sample(length, np.random.default_rng(seed)) for seed in range(count)])


def test_randomized_positions_increase_and_cover_the_range() -> None:
    made = draws("randomized:maximum=100", 20)
    assert (np.diff(made, axis=1) > 0).all()
    assert made.min() == 0
    assert made.max() == 99
    assert len({tuple(row) for row in made}) == len(made)
    assert (draws("randomized:maximum=20", 20, 5) == np.arange(20)).all()


def test_pose_moves_the_second_of_two_chunks() -> None:
    made = draws("pose:target_length=100", 21)
    steps = np.diff(made, axis=1)
    assert (made[:, 0] == 0).all()
    assert ((steps != 1).sum(1) <= 1).all()  # one jump at most
    assert made.max() == 99
    jumps = np.argmax(steps > 1, axis=1)[(steps > 1).any(1)] + 1  # length of the first chunk
    assert set(jumps) == set(range(1, 12))  # 1 .. ceil(21 / 2)
    assert (draws("pose:target_length=21", 21, 5) == np.arange(21)).all()


def test_every_document_of_a_row_has_its_own_draw() -> None:
    counted = np.asarray([[0, 1, 2, 3, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 6, 7]])
    made = sample_positions(counted, SAMPLERS.build("randomized:maximum=50"), seed=(3,), numbers=[10, 11])
    assert (np.diff(made[0, :4]) > 0).all()
    assert (np.diff(made[0, 4:7]) > 0).all()
    assert (np.diff(made[1]) > 0).all()
    again = sample_positions(counted[1:], SAMPLERS.build("randomized:maximum=50"), seed=(3,), numbers=[11])
    assert np.array_equal(made[1:], again)  # a row depends on its number, not on its neighbours
    other = sample_positions(counted, SAMPLERS.build("randomized:maximum=50"), seed=(4,), numbers=[10, 11])
    assert not np.array_equal(made, other)
    alike = sample_positions(counted[[1, 1]], SAMPLERS.build("randomized:maximum=50"), seed=(3,), numbers=[10, 11])
    assert not np.array_equal(*alike)


@pytest.mark.parametrize("variant", ["randomized:maximum=7", "pose:target_length=7"])
def test_too_few_positions_are_refused(variant: str) -> None:
    with pytest.raises(UserError, match="draws from 7 positions: too few for 8 tokens"):
        draws(variant, 8, 1)
    with pytest.raises(UserError, match="must be 1 or more"):
        SAMPLERS.build(variant.replace("7", "0"))
