"""docs/results.md says what verdicts rest on, also where that is less than it should be."""

import pytest

from lmarch.evaluation.claims import RULE_NUMBER
from lmarch.reporting.stored import results_document

RECORD = {
    "name": "sinks", "tier": "cpu", "question": "Which?", "source": "Someone 2020", "metric": "bpb",
    "started": "2026-11-24T10:00",
    "device": "1 x cpu", "versions": {"python": "3.11", "jax": "0.10", "lmarch": "0.1"}, "git_commit": "a" * 40,
    "command": "lmarch reproduce sinks",
}  # fmt: skip
ROW = {
    "line": "sinks=0", "lines": "methods", "group": "one head", "axis": None, "metric": "bpb", "length": 64,
    "trained_length": 64,
    "value": 2.8, "ci_low": 2.7, "ci_high": 2.9, "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0,
    "reference": "sinks=0",
    "targets": 16, "n_windows": 72, "n": 24, "corpus": "sotu", "split": "test", "seeds": 3, "low_n": True,
    "seed_differences": [0.0] * 3,
}  # fmt: skip
VERDICT = {
    "ahead": "sinks=0", "behind": "rope", "multiple": 8, "metric": "bpb", "group": None, "axis": None, "status": "PASS",
    "reason": None,
    "value_ahead": 2.0, "value_behind": 2.85, "lead": 0.85, "lead_low": 0.84, "lead_high": 0.86,
    "seed_leads": [0.82, 1.57, 0.15],
    "n": 24, "low_n": True,
}  # fmt: skip


def page(record: dict = RECORD, verdict: dict = VERDICT) -> str:
    return results_document([(record, [verdict], [ROW])])


def test_a_verdict_of_an_earlier_rule_stands_beside_what_training_seeds_allow() -> None:
    made = page()
    assert "*To be measured again.*" in made
    assert "Of 1 that passed, 0 exclude 0 once training seeds are in the interval" in " ".join(made.split())
    (line,) = (line for line in made.splitlines() if "`sinks=0 ahead of rope, bpb at 8×`" in line)
    assert line.split(" | ")[1:4] == ["PASS", "+0.85 ±0.01", "+0.82, +1.57, +0.15"]
    assert "±1.7" in line  # Student's t over three seeds


def test_a_verdict_of_this_rule_has_every_seed_and_both_intervals() -> None:
    now = {**VERDICT, "corpus": "sotu", "equal_within": None, "p": 0.004, "documents_low": 0.84, "documents_high": 0.86}
    now |= {"lead_low": 0.7, "lead_high": 1.0, "seed_leads": [0.8, 0.9, 0.85, 0.83, 0.87]}
    made = page({**RECORD, "rule": RULE_NUMBER}, now)
    assert "To be measured again" not in made
    assert (
        "| verdict | lead | p (Holm) | over documents alone | seed 1 | seed 2 | seed 3 | seed 4 | seed 5 | ahead | behind |"
        in made
    )
    assert "| PASS (LOW_N) | +0.85 ±0.15 | 0.004 | [0.84, 0.86] | +0.80 | +0.90 |" in made


@pytest.mark.parametrize("changes", ["+changes", "+changes:0123456789ab"])
def test_a_modified_tree_is_not_passed_off_as_its_commit(changes: str) -> None:
    assert "commit `aaaaaaaaaaaa`," in page()
    made = page({**RECORD, "git_commit": "a" * 40 + changes})
    assert f"commit `aaaaaaaaaaaa` with {changes[1:].replace(':', ' ')}," in made


def test_what_was_tried_and_dropped_is_on_the_page() -> None:
    made = page({**RECORD, "tried": [{"setting": "four heads", "outcome": "the other way round"}]})
    assert "| four heads | the other way round |" in made
