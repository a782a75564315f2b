"""Verdicts of the earlier rule beside what training seeds and documents together allow."""

import numpy as np
import pytest
from scipy import stats

from lmarch.evaluation.rejudged import rejudge


def stored(lead: float, half: float, *seeds: float, status: str = "PASS") -> dict:
    return {
        "lead": lead,
        "lead_low": lead - half,
        "lead_high": lead + half,
        "seed_leads": list(seeds),
        "status": status,
    }


def test_an_interval_over_documents_is_joined_with_students_over_seeds() -> None:
    seeds = (0.82, 1.57, 0.15)  # of `attention_sinks`, printed as +0.85 ±0.01
    (found,) = rejudge([stored(np.mean(seeds), 0.01, *seeds)])
    half = stats.t.interval(0.95, 2, loc=0, scale=stats.sem(seeds))[1]
    assert found.interval.high - np.mean(seeds) == pytest.approx(np.hypot(half, 0.01))
    assert not found.found


def test_a_lead_that_all_seeds_share_is_found_and_one_among_many_claims_less_easily() -> None:
    sure, close = stored(0.5, 0.02, 0.49, 0.5, 0.51), stored(0.1, 0.05, 0.11, 0.08, 0.11)
    assert [one.found for one in rejudge([sure, close])] == [True, True]
    assert [one.found for one in rejudge([sure, close] + [stored(0.0, 0.1, 0.01, 0.0, -0.01)] * 20)][:2] == [
        True,
        False,
    ]
    assert all(one.p == 1 for one in rejudge([sure, *[stored(0.0, 0.1, 0.01, 0.0, -0.01)] * 20])[1:])
