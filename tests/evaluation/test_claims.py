"""Verdicts: what the literature says beside what was measured."""

from types import SimpleNamespace

import numpy as np
import pytest

from lmarch.evaluation.claims import Claim, judge
from lmarch.evaluation.items import Items
from lmarch.evaluation.scoring import Scores

DOCUMENTS, TARGETS = 40, 16
ROWS = np.zeros((DOCUMENTS, 64 + 1), np.int32)
BYTES = np.ones((DOCUMENTS, TARGETS), np.int32)
ITEMS = Items(ROWS, BYTES, BYTES > 0, np.arange(DOCUMENTS), None, 0, {})


def scores(bits: float, accuracy: float, seed: int = 0, spread: float = 0.2) -> SimpleNamespace:
    """Targets that need about this many bits and are hit about this often, with what a document makes of it in common."""
    random = np.random.default_rng(seed)
    by_document = np.random.default_rng(99).normal(0, 1, (DOCUMENTS, 1))
    nll = (bits + by_document + random.normal(0, spread, (DOCUMENTS, TARGETS))) * np.log(2)
    hits = random.random((DOCUMENTS, TARGETS)) < accuracy
    return SimpleNamespace(items=ITEMS, scores=Scores(nll.astype(np.float32), hits, 1.0))


def verdict(ahead: list, behind: list, metric: str = "bpb", gate: str | None = None) -> dict:
    return judge(Claim("a", "b", 8, metric), ahead, behind, gate)


def test_fewer_bits_are_ahead_and_so_is_a_higher_accuracy() -> None:
    good, bad = [scores(2.0, 0.7)], [scores(2.5, 0.3, seed=1)]
    for metric, lead in (("bpb", 0.5), ("accuracy", 0.4)):
        found = verdict(good, bad, metric)
        assert (found["status"], found["reason"]) == ("PASS", None)
        assert found["lead"] == pytest.approx(lead, abs=0.07)
        assert verdict(bad, good, metric)["status"] == "FAIL"
        assert verdict(bad, good, metric)["lead"] == pytest.approx(-found["lead"])


def test_an_interval_that_holds_0_is_inconclusive() -> None:
    found = verdict([scores(2.0, 0.5)], [scores(2.001, 0.5, seed=1)])
    assert (found["status"], found["reason"]) == ("INCONCLUSIVE", "the interval holds 0")


def test_one_training_seed_that_disagrees_is_enough_to_be_inconclusive() -> None:
    ahead, behind = [scores(2.0, 0.5), scores(2.0, 0.5), scores(2.6, 0.5)], [scores(2.5, 0.5, seed=1)] * 3
    found = verdict(ahead, behind)
    assert found["lead_low"] > 0
    assert (found["status"], found["reason"]) == ("INCONCLUSIVE", "training seeds disagree")
    assert np.sign(found["seed_leads"]).tolist() == [1, 1, -1]


def test_a_failed_gate_judges_nothing_and_says_why() -> None:
    found = verdict([scores(2.0, 0.5)], [scores(3.0, 0.5)], gate="it has learned nothing")
    assert (found["status"], found["reason"]) == ("INCONCLUSIVE", "it has learned nothing")


def test_a_loss_that_is_not_finite_never_passes() -> None:
    broken = scores(2.0, 0.5)
    broken.scores.nll_NS[3, 2] = np.nan
    found = verdict([broken], [scores(2.5, 0.5, seed=1)])
    assert (found["lead"], found["lead_low"], found["status"]) == (-np.inf, -np.inf, "INCONCLUSIVE")
    assert verdict([broken], [broken])["status"] == "INCONCLUSIVE"
