import math

import numpy as np
import pytest

from lmarch.evaluation.statistics import (
    Interval,
    difference_interval,
    document_resamples,
    ratio,
    ratio_interval,
)


def documents(num_documents=60, bits=1.5, spread=0.3, seed=0):
    """Losses in bits of documents of unequal size whose bits per byte scatter around `bits`."""
    rng = np.random.default_rng(seed)
    bytes_D = rng.integers(64, 256, num_documents)
    return bytes_D * rng.normal(bits, spread, num_documents), bytes_D


def width(interval):
    return interval.high - interval.low


def test_a_ratio_is_one_of_sums():
    # 3 bits over 1 byte and 1 bit over 3 bytes: 4 bits in 4 bytes, where the mean of the two ratios would be 1.67
    assert ratio([3.0, 1.0], [1, 3]) == pytest.approx(1.0)


def test_interval_equals_hand_computation():
    bits_D, bytes_D = np.array([1.0, 2.0, 4.0]), np.array([1, 1, 2])
    counts_BD = np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [1, 1, 1]])
    # bits per byte of the resamples: 1, 2, 2, 7/4
    assert ratio_interval(bits_D, bytes_D, counts_BD, level=0.95) == Interval(pytest.approx(1), pytest.approx(2))
    assert ratio_interval(bits_D, bytes_D, counts_BD, level=0.2).low == pytest.approx(7 / 4)
    doubled = difference_interval(2 * bits_D, bits_D, bytes_D, counts_BD)
    assert doubled == ratio_interval(bits_D, bytes_D, counts_BD)


def test_resamples_are_deterministic_draws_of_all_documents():
    counts_BD = document_resamples(17, seed=3, resamples=50)
    assert counts_BD.shape == (50, 17)
    assert (counts_BD.sum(axis=1) == 17).all()
    np.testing.assert_array_equal(counts_BD, document_resamples(17, seed=3, resamples=50))
    assert (counts_BD != document_resamples(17, seed=4, resamples=50)).any()


def test_interval_covers_the_truth_at_its_level():
    counts_BD = document_resamples(60, seed=0, resamples=1000)
    trials = [ratio_interval(*documents(bits=1.5, seed=seed), counts_BD) for seed in range(600)]
    covered = np.mean([not interval.excludes(1.5) for interval in trials])
    assert 0.92 <= covered <= 0.975  # three standard errors of 600 trials around 0.95


def test_difference_interval_covers_the_truth_at_its_level():
    counts_BD = document_resamples(60, seed=0, resamples=1000)
    covered = []
    for seed in range(600):
        bits_b_D, bytes_D = documents(seed=seed)
        noise_D = np.random.default_rng(10_000 + seed).normal(0.1, 0.05, 60)
        bits_a_D = bits_b_D + bytes_D * noise_D
        covered.append(not difference_interval(bits_a_D, bits_b_D, bytes_D, counts_BD).excludes(0.1))
    assert 0.92 <= np.mean(covered) <= 0.975


def test_pairing_removes_what_the_documents_share():
    bits_b_D, bytes_D = documents()
    bits_a_D = bits_b_D + bytes_D * np.random.default_rng(1).normal(0.1, 0.05, 60)
    counts_BD = document_resamples(60, seed=0)
    paired = difference_interval(bits_a_D, bits_b_D, bytes_D, counts_BD)
    unpaired = width(ratio_interval(bits_a_D, bytes_D, counts_BD)) + width(ratio_interval(bits_b_D, bytes_D, counts_BD))
    assert width(paired) < unpaired / 4
    assert paired.excludes(0.0)


def test_order_of_documents_does_not_matter():
    bits_D, bytes_D = documents()
    counts_BD = document_resamples(60, seed=0)
    order_D = np.random.default_rng(5).permutation(60)
    assert ratio(bits_D[order_D], bytes_D[order_D]) == pytest.approx(ratio(bits_D, bytes_D))
    permuted = ratio_interval(bits_D[order_D], bytes_D[order_D], counts_BD[:, order_D])
    original = ratio_interval(bits_D, bytes_D, counts_BD)
    assert permuted == Interval(pytest.approx(original.low), pytest.approx(original.high))


def test_swapping_the_methods_mirrors_the_difference():
    bits_a_D, bytes_D = documents(seed=1)
    bits_b_D = documents(seed=2)[0]
    counts_BD = document_resamples(60, seed=0)
    forward = difference_interval(bits_a_D, bits_b_D, bytes_D, counts_BD)
    backward = difference_interval(bits_b_D, bits_a_D, bytes_D, counts_BD)
    assert (backward.low, backward.high) == (-forward.high, -forward.low)


@pytest.mark.parametrize("loss", [math.inf, math.nan, -math.inf])
def test_one_bad_loss_makes_the_value_infinite(loss):
    bits_D, bytes_D = documents()
    bits_D[7] = loss
    assert ratio(bits_D, bytes_D) == math.inf
    interval = ratio_interval(bits_D, bytes_D, document_resamples(60, seed=0))
    assert math.isfinite(interval.low)  # a third of the resamples leave document 7 out
    assert interval.high == math.inf


def test_infinite_differences_are_ordered_and_undefined_ones_exclude_nothing():
    bits_D, bytes_D = documents()
    counts_BD = document_resamples(60, seed=0)
    bad_D = np.full(60, math.inf)
    worse = difference_interval(bad_D, bits_D, bytes_D, counts_BD)
    assert worse == Interval(math.inf, math.inf)
    assert worse.excludes(0.0)
    both = difference_interval(bad_D, bad_D, bytes_D, counts_BD)
    assert both == Interval(-math.inf, math.inf)
    assert not both.excludes(0.0)


def test_interval_excludes():
    assert Interval(0.1, 0.2).excludes(0.0)
    assert Interval(-0.2, -0.1).excludes(0.0)
    assert not Interval(-0.1, 0.2).excludes(0.0)
    assert not Interval(0.0, 0.2).excludes(0.0)  # closed


def test_one_document_bounds_nothing():
    counts = document_resamples(1, seed=0)
    assert ratio_interval([3.0], [2], counts) == Interval(-math.inf, math.inf)
    assert not difference_interval([3.0], [1.0], [2], counts).excludes(0.0)
