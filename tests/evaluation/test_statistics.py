import math

import numpy as np
import pytest
from scipy import stats

from lmarch.evaluation.statistics import (
    Interval,
    OverBoth,
    difference_interval,
    document_resamples,
    holm,
    ratio,
    ratio_interval,
    seeds_interval,
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


def test_interval_is_the_studentized_bootstraps_by_hand():
    """Limits are the value less what resamples stray, in their own standard errors, times the standard error."""
    bits_D, bytes_D = documents(12)
    counts_BD = document_resamples(12, seed=0, resamples=200)

    def by_hand(chosen):
        bits, sizes = bits_D[chosen], bytes_D[chosen]
        found = bits.sum() / sizes.sum()
        return found, np.sqrt(((bits - found * sizes) ** 2).sum()) / sizes.sum()

    value, error = by_hand(np.arange(12))
    drawn = [by_hand(np.repeat(np.arange(12), counts)) for counts in counts_BD]
    strays = sorted((found - value) / own for found, own in drawn)
    interval = ratio_interval(bits_D, bytes_D, counts_BD, level=0.9)
    assert interval.high == pytest.approx(value - strays[9] * error)  # the 5 % of 200, rounded outwards
    assert interval.low == pytest.approx(value - strays[190] * error)
    doubled = difference_interval(3 * bits_D, 2 * bits_D, bytes_D, counts_BD, level=0.9)
    assert (doubled.low, doubled.high) == pytest.approx((interval.low, interval.high))


def test_documents_that_agree_leave_no_interval():
    sizes = np.array([3, 5, 9, 2])
    assert ratio_interval(2.0 * sizes, sizes, document_resamples(4, seed=0)) == Interval(2.0, 2.0)


def test_resamples_are_deterministic_draws_of_all_documents():
    counts_BD = document_resamples(17, seed=3, resamples=50)
    assert counts_BD.shape == (50, 17)
    assert (counts_BD.sum(axis=1) == 17).all()
    np.testing.assert_array_equal(counts_BD, document_resamples(17, seed=3, resamples=50))
    assert (counts_BD != document_resamples(17, seed=4, resamples=50)).any()


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


def test_over_seeds_it_is_students_t():
    leads = [0.82, 1.57, 0.15]
    found = seeds_interval(leads)
    expected = stats.t.interval(0.95, 2, loc=np.mean(leads), scale=stats.sem(leads))
    assert (found.low, found.high) == pytest.approx(expected)
    assert seeds_interval([0.5]) == Interval(-math.inf, math.inf)


def test_over_both_squared_distances_add_up():
    rng, counts_BD = np.random.default_rng(0), document_resamples(30, seed=0)
    total_SD, size_D = rng.normal(1, 1, (5, 30)) + rng.normal(0, 0.3, (5, 1)), np.ones(30)
    seeds = seeds_interval(total_SD.mean(1))
    documents_only = ratio_interval(total_SD.mean(0), size_D, counts_BD)
    both = OverBoth.of(total_SD, size_D, counts_BD)
    value = total_SD.mean()
    assert both.value == pytest.approx(value)
    assert (value - both.interval().low) ** 2 == pytest.approx(
        (value - seeds.low) ** 2 + (value - documents_only.low) ** 2
    )
    assert (both.interval().high - value) ** 2 == pytest.approx(
        (seeds.high - value) ** 2 + (documents_only.high - value) ** 2
    )
    border = value - 0.4
    p = both.p_value(border)
    assert 0.001 < p < 0.5
    assert both.interval(1 - p - 1e-5).low > border >= both.interval(1 - p + 1e-5).low
    assert both.p_value(value) == 1.0


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]


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
