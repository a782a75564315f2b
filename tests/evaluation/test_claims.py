"""Verdicts: what the literature says beside what was measured."""

from types import SimpleNamespace

import numpy as np
import pytest

from lmarch.evaluation.claims import FEWEST_SEEDS, Claim, Obtained, judge
from lmarch.evaluation.items import Items
from lmarch.evaluation.scoring import Scores

DOCUMENTS, TARGETS = 40, 16
ROWS = np.zeros((DOCUMENTS, 64 + 1), np.int32)
BYTES = np.ones((DOCUMENTS, TARGETS), np.int32)
ITEMS = Items(ROWS, BYTES, BYTES > 0, np.arange(DOCUMENTS), None, 0, {})


def scores(bits: float, accuracy: float = 0.5, seed: int = 0, spread: float = 0.2) -> SimpleNamespace:
    """Targets that need about this many bits and are hit about this often, with what a document makes of it in common."""
    random = np.random.default_rng(seed)
    by_document = np.random.default_rng(99).normal(0, 1, (DOCUMENTS, 1))
    nll = (bits + by_document + random.normal(0, spread, (DOCUMENTS, TARGETS))) * np.log(2)
    hits = random.random((DOCUMENTS, TARGETS)) < accuracy
    return SimpleNamespace(items=ITEMS, scores=Scores(nll.astype(np.float32), hits, 1.0))


def runs(*bits: float, accuracy: float = 0.5, first: int = 0) -> list[SimpleNamespace]:
    """A training run for each."""
    return [scores(one, accuracy, first + number) for number, one in enumerate(bits)]


def verdict(ahead: list, behind: list, gate: str | None = None, **claim) -> dict:
    (row,) = judge([Obtained(Claim("a", "b", 8, **claim), ahead, behind, gate)])
    return row


FIVE = (2.0, 2.02, 1.98, 2.01, 1.99)
WORSE = tuple(bits + 0.5 for bits in FIVE)


def test_fewer_bits_are_ahead_and_so_is_a_higher_accuracy() -> None:
    good, bad = runs(*FIVE, accuracy=0.7), runs(*WORSE, accuracy=0.3, first=10)
    for metric, lead in (("bpb", 0.5), ("accuracy", 0.4)):
        found = verdict(good, bad, metric=metric)
        assert (found["status"], found["reason"]) == ("PASS", None)
        assert found["lead"] == pytest.approx(lead, abs=0.05)
        assert verdict(bad, good, metric=metric)["status"] == "FAIL"
        assert verdict(bad, good, metric=metric)["lead"] == pytest.approx(-found["lead"])


def test_an_interval_that_holds_0_is_inconclusive() -> None:
    found = verdict(runs(*FIVE), runs(*FIVE, first=10))
    assert (found["status"], found["reason"]) == ("INCONCLUSIVE", "the interval holds 0")


def test_training_runs_that_differ_widen_the_interval_until_it_holds_0() -> None:
    """`attention_sinks` once printed +0.85 ±0.01 for leads of 0.82, 1.57 and 0.15: of documents alone that was right."""
    found = verdict(runs(2.0, 1.2, 2.4, 1.5, 2.3), runs(*(2.5,) * 5, first=10))
    assert found["documents_low"] > 0
    assert min(found["seed_leads"]) > 0
    assert found["lead_low"] < found["documents_low"] < found["documents_high"] < found["lead_high"]
    close = verdict(runs(2.45, 1.2, 2.4, 1.5, 2.3), runs(*(2.5,) * 5, first=10))
    assert close["documents_low"] > 0
    assert (close["status"], close["reason"]) == ("INCONCLUSIVE", "the interval holds 0")


def test_no_number_of_documents_makes_up_for_training_seeds() -> None:
    found = verdict(runs(*FIVE[:3]), runs(*WORSE[:3], first=10))
    assert found["lead_low"] > 0
    assert (found["status"], found["reason"]) == ("INCONCLUSIVE", f"3 training seeds of at least {FEWEST_SEEDS}")
    alone = verdict(runs(2.0), runs(2.5))
    assert (alone["status"], alone["lead_low"]) == ("INCONCLUSIVE", -np.inf)


def test_beside_many_claims_a_single_one_must_be_surer() -> None:
    """A lead that one look in fifty gives by chance is found in no look of twenty."""
    ahead, behind = runs(2.0, 2.1, 1.9, 2.05, 1.95), runs(2.15, 2.15, 2.1, 2.2, 2.05, first=10)
    (alone,) = judge([Obtained(Claim("a", "b", 8), ahead, behind)])
    assert (alone["status"], alone["p"] > 0.002) == ("PASS", True)
    equal = Obtained(Claim("c", "d", 8), runs(*FIVE), runs(*FIVE, first=10))
    beside, *_ = judge([Obtained(Claim("a", "b", 8), ahead, behind), *[equal] * 19])
    assert beside["p"] == pytest.approx(20 * alone["p"])
    assert (beside["status"], beside["reason"]) == ("INCONCLUSIVE", "excludes 0 alone, not among the other claims")
    assert beside["lead_low"] == alone["lead_low"] > 0


def test_lines_are_equal_only_where_that_is_shown() -> None:
    """Two that do not differ for all that is known are not shown to be equal."""
    same = runs(*FIVE), runs(*FIVE, first=10)
    assert verdict(*same, equal_within=0.1)["status"] == "PASS"
    too_fine = verdict(*same, equal_within=0.001)
    assert (too_fine["status"], too_fine["reason"]) == ("INCONCLUSIVE", "not shown to lie within 0.001")
    assert verdict(runs(*FIVE), runs(*WORSE), equal_within=0.1)["status"] == "FAIL"
    assert verdict(runs(*WORSE), runs(*FIVE), equal_within=0.1)["status"] == "FAIL"
    assert verdict(runs(*FIVE), runs(*WORSE), equal_within=0.8)["status"] == "PASS"
    nearly = runs(*(bits + 0.098 for bits in FIVE), first=10)  # not below -0.1, and above 0.1 for all that is known
    assert verdict(runs(*FIVE), nearly, equal_within=0.1)["status"] == "INCONCLUSIVE"


def test_a_failed_gate_judges_nothing_and_says_why() -> None:
    found = verdict(runs(*FIVE), runs(*WORSE), gate="it has learned nothing")
    assert (found["status"], found["reason"]) == ("INCONCLUSIVE", "it has learned nothing")


def test_a_loss_that_is_not_finite_never_passes() -> None:
    good, bad = runs(*FIVE), runs(*WORSE)
    bad[2].scores.nll_NS[3, 2] = np.nan
    for pair in ((good, bad), (bad, good), (bad, bad)):
        found = verdict(*pair)
        assert (found["status"], found["p"]) == ("INCONCLUSIVE", 1.0)
        assert (found["lead_low"], found["lead_high"]) == (-np.inf, np.inf)
