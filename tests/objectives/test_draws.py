"""Random numbers by counting: those that were published, uniform subsets and orders, and equal keys."""

from collections import Counter

import numpy as np
import pytest

from lmarch.objectives import Draws, draws


def test_words_are_those_of_splitmix64() -> None:
    """Of seed 1234567, as at rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64."""
    words = draws._words(np.array([1234567], np.uint64), np.arange(5))
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert words.tolist() == expected


def test_rows_seeds_and_streams_draw_apart() -> None:
    """Neighbouring numbers are all that a run ever has."""
    keys = [
        Draws.of_rows(seed, stream, np.arange(50)).at(np.repeat(np.arange(50), 9), np.tile(np.arange(9), 50)).keys_D
        for seed in (0, 1, 2, 2**32 - 1)
        for stream in range(5)
    ]
    assert len(np.unique(np.concatenate(keys))) == 4 * 5 * 50 * 9
    first, second = Draws(np.concatenate(keys)).split(2)
    for one in (first, second):
        counts = np.histogram(one.fractions(), bins=20, range=(0, 1))[0]
        assert ((counts - 450) ** 2 / 450).sum() < 43.8  # chi-square, 19 degrees of freedom: 1 in 1,000
    assert abs(np.corrcoef(first.fractions(), second.fractions())[0, 1]) < 0.04


def test_integers_are_below_their_limit_and_reach_it() -> None:
    limits = np.repeat([1, 2, 3, 1000], 5000)
    made = Draws.of_rows(0, 0, np.arange(20_000)).integers(limits)
    assert [made[limits == limit].max() for limit in (1, 2, 3)] == [0, 1, 2]
    assert made.min() == 0
    assert 990 < made.max() < 1000


@pytest.mark.parametrize("bits", [40, 3], ids=["as it is", "with keys that are often equal"])
def test_as_many_are_chosen_as_asked_whatever_stands_beside_them(bits: int, monkeypatch) -> None:
    monkeypatch.setattr(draws, "_RANDOM_BITS", bits)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 200)
    counts, keys = rng.integers(1, lengths + 1), rng.integers(2**63, size=200).astype(np.uint64)
    together = np.split(Draws(keys).chosen(lengths, counts), np.cumsum(lengths)[:-1])
    assert [part.sum() for part in together] == counts.tolist()
    for index, part in enumerate(together):
        one = slice(index, index + 1)
        assert np.array_equal(part, Draws(keys[one]).chosen(lengths[one], counts[one]))
    orders = np.split(Draws(keys).shuffled(lengths), np.cumsum(lengths)[:-1])
    for start, order in zip(np.cumsum(lengths) - lengths, orders, strict=True):
        assert sorted(order - start) == list(range(len(order)))


@pytest.mark.parametrize("with_first", [False, True])
def test_every_subset_is_chosen_equally_often(with_first: bool) -> None:
    count = 8_000
    made = Draws.of_rows(0, 0, np.arange(count)).chosen(np.full(count, 6), np.full(count, 3), with_first=with_first)
    subsets = Counter(map(tuple, made.reshape(count, 6).tolist()))
    number, limit = (10, 27.9) if with_first else (20, 43.8)  # chi-square, 9 and 19 degrees of freedom: 1 in 1,000
    assert len(subsets) == number
    assert all(subset[0] for subset in subsets) == with_first
    assert sum((n - count / number) ** 2 * number / count for n in subsets.values()) < limit
