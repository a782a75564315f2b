"""A published ordering beside the obtained one: PASS, FAIL or INCONCLUSIVE, never an absolute number of another scale."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.evaluation.measuring import Measured
from lmarch.evaluation.metrics import METRICS
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.statistics import ratio

STATUSES = ("PASS", "INCONCLUSIVE", "FAIL")


@dataclasses.dataclass(frozen=True)
class Claim:
    """At `multiple` trained lengths the line `ahead` does better than the line `behind`."""

    ahead: str
    behind: str
    multiple: float
    metric: str = "bpb"  # of METRICS
    group: str | None = None  # of the lines; None: the first
    axis: str | None = None  # a causal decoder has none

    def __post_init__(self) -> None:
        assert self.metric in METRICS, self.metric


def judge(claim: Claim, ahead: Sequence[Measured], behind: Sequence[Measured], gate: str | None) -> dict[str, Any]:
    """The claim with its verdict, as a flat row. `lead` is how much better `ahead` is: above 0 as published.

    PASS: the paired 95 % interval over documents lies above 0 and so does the lead of every training seed; FAIL: both lie
    below; else INCONCLUSIVE, also where a model failed the gate: it has not
    learned its task where it was trained.

    Args:
      ahead, behind: one entry a training seed, the same seeds; all of the same items.
      gate: why the models may not be judged, or None.
    """
    pairing = Pairing(ahead[0].items, claim.metric)
    ahead_SD, behind_SD = (np.stack([pairing.per_document(m.scores) for m in seeds]) for seeds in (ahead, behind))
    better, worse = (ahead_SD, behind_SD) if pairing.metric.higher_is_better else (behind_SD, ahead_SD)
    lead = pairing.difference(better.mean(0), worse.mean(0), "lead")
    seed_leads = [ratio(a, pairing.sizes_D) - ratio(b, pairing.sizes_D) for a, b in zip(better, worse, strict=True)]
    if gate is not None:
        status, reason = "INCONCLUSIVE", gate
    elif lead["lead_low"] > 0 and min(seed_leads) > 0:
        status, reason = "PASS", None
    elif lead["lead_high"] < 0 and max(seed_leads) < 0:
        status, reason = "FAIL", None
    elif lead["lead_low"] <= 0 <= lead["lead_high"]:
        status, reason = "INCONCLUSIVE", "the interval holds 0"
    else:
        status, reason = "INCONCLUSIVE", "training seeds disagree"
    return {
        **dataclasses.asdict(claim),
        "status": status,
        "reason": reason,
        "value_ahead": ratio(ahead_SD.mean(0), pairing.sizes_D),
        "value_behind": ratio(behind_SD.mean(0), pairing.sizes_D),
        **lead,
        "seed_leads": seed_leads,
        "n": pairing.count,
        "low_n": pairing.facts()["low_n"],
    }
