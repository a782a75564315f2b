"""Regions and position maps: the same numbers from plain integers, NumPy and JAX, and tiles that are skipped."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.branches import Branch, Pairs, PositionMap, Region, at
from lmarch.errors import UserError

REGIONS = [
    Region(),
    Region(distance=(3, None)),
    Region(distance=(None, 5), rank=(None, 4)),
    Region(block_size=5, block_distance=(1, 1)),
    Region(block_size=7, block_distance=(2, None), lag=(0, 30)),
    Region(lag=(-2, 2)),
]
MAPS = [
    PositionMap(),
    at(7),
    PositionMap(group=3, offset=2),
    PositionMap(modulus=5, offset=5, ceiling=8),
    PositionMap(ceiling=9),
]


def square(size: int) -> Pairs:
    """All pairs of a text whose positions begin at 2, and whose document began 1 token before."""
    t, s = np.indices((size, size), dtype=np.int32)
    return Pairs.of((t + 2, s + 2), (t, s), (t + 1, s + 1))


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_holds_the_same_pairs_of_numbers_numpy_and_jax(region: Region) -> None:
    pairs = square(12)
    inside = region.contains(pairs)
    assert inside.dtype == bool
    assert inside.shape == (12, 12)
    assert np.array_equal(jax.jit(region.contains)(jax.tree.map(jnp.asarray, pairs)), inside)
    for t, s in itertools.product(range(12), repeat=2):
        one = Pairs.of((t + 2, s + 2), (t, s), (t + 1, s + 1))
        assert bool(region.contains(one)) == inside[t, s]
        assert bool(region.may_meet(one, one)) == inside[t, s]


@pytest.mark.parametrize(
    "region",
    [
        Region(distance=(3, None)),
        Region(distance=(None, 2)),
        Region(block_size=5, block_distance=(1, 1)),
        Region(lag=(-1, 1)),
        Region(rank=(None, 4)),
    ],
)
def test_a_tile_is_skipped_unless_it_holds_a_pair(region: Region) -> None:
    """Where one coordinate is bounded, interval arithmetic is exact."""
    tile, pairs = 3, square(12)
    inside = region.contains(pairs)
    for n, m in itertools.product(range(0, 12, tile), repeat=2):
        part = [coordinate[n : n + tile, m : m + tile] for coordinate in pairs[:6]]
        low, high = Pairs(*(x.min() for x in part)), Pairs(*(x.max() for x in part))
        assert region.may_meet(low, high) == inside[n : n + tile, m : m + tile].any()


@pytest.mark.parametrize("positions", MAPS)
def test_a_map_has_the_same_integers_for_numbers_numpy_and_jax(positions: PositionMap) -> None:
    index = np.arange(20, dtype=np.int32)
    mapped, in_jax = positions(index), jax.jit(positions)(jnp.asarray(index))
    assert mapped.dtype == in_jax.dtype == np.int32
    assert np.array_equal(in_jax, mapped)
    for t in range(20):
        of_number = positions(t)
        assert of_number == mapped[t]
        assert isinstance(of_number, (int, np.integer))


def test_a_compressed_map_has_a_ceiling_of_its_own() -> None:
    assert PositionMap(scale=0.5, offset=1, ceiling=3.25)(np.arange(7)).tolist() == [1, 1.5, 2, 2.5, 3, 3.25, 3.25]


def test_a_ranked_branch_is_at_ranks() -> None:
    assert (Branch(ranked=True, query=at(9)).distance(square(4)) == 8 - np.arange(4)).all()


def test_regions_that_count_different_blocks_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="blocks of 4 and 8 tokens"):
        Region(block_size=4, block_distance=(1, 1)) & Region(block_size=8, block_distance=(0, None))
