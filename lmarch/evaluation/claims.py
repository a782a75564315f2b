"""A published ordering beside the obtained one: PASS, FAIL or INCONCLUSIVE, never an absolute number of another scale.

The rule, in `RULE` for people: what is obtained must hold for other training runs and other documents at once, for all claims
of an experiment together, between models that learned as well where they were trained.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmarch.evaluation.measuring import Measured
from lmarch.evaluation.metrics import METRICS
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.statistics import OverBoth, holm, ratio

STATUSES = ("PASS", "INCONCLUSIVE", "FAIL")
RULE_NUMBER = 2  # the first one asked for an interval over documents alone
FEWEST_SEEDS = 5
LEVEL = 0.95
RULE = f"""\
A *verdict* compares the published ordering with the obtained one on the same targets, never an absolute number of another
scale. The lead's 95 % interval is over training seeds and documents at once. PASS: the lead is above 0 with an error rate
of 5 % for all claims of the experiment together (Holm), from at least {FEWEST_SEEDS} training seeds, between models that are as
good where they were trained as the best line, within a stated margin. FAIL: the lead is below 0 by the same measure. A claim
that two lines are equal names a margin, and passes if the lead is shown to lie within it (two one-sided tests).
INCONCLUSIVE: anything else."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """At `multiple` trained lengths the line `ahead` does better than the line `behind`; or as well, to within a margin."""

    ahead: str
    behind: str
    multiple: float
    metric: str = "bpb"  # of METRICS
    group: str | None = None  # of the lines; None: the first
    axis: str | None = None  # a causal decoder has none
    equal_within: float | None = None  # in the metric's unit; None: `ahead` is ahead

    def __post_init__(self) -> None:
        assert self.metric in METRICS, self.metric
        assert self.equal_within is None or self.equal_within > 0, self.equal_within


@dataclasses.dataclass(frozen=True)
class Obtained:
    """What was measured of a claim.

    Args:
      ahead, behind: one entry a training seed, the same seeds; all of the same items.
      gate: why the models may not be judged, or None.
    """

    claim: Claim
    ahead: Sequence[Measured]
    behind: Sequence[Measured]
    gate: str | None = None


def judge(obtained: Sequence[Obtained]) -> list[dict[str, Any]]:
    """All claims of an experiment with their verdicts, as flat rows. `lead` is how much better `ahead` is."""
    leads = [_Lead(one) for one in obtained]
    return [lead.row(p) for lead, p in zip(leads, holm([lead.p_value for lead in leads]).tolist(), strict=True)]


class _Lead:
    """How much better `ahead` is than `behind`: above 0 as published."""

    def __init__(self, obtained: Obtained) -> None:
        self._obtained, self._claim = obtained, obtained.claim
        self._pairing = pairing = Pairing(obtained.ahead[0].items, obtained.claim.metric)
        self._ahead_SD, self._behind_SD = (
            np.stack([pairing.per_document(m.scores) for m in seeds]) for seeds in (obtained.ahead, obtained.behind)
        )
        higher = pairing.metric.higher_is_better
        self._better = (self._ahead_SD, self._behind_SD) if higher else (self._behind_SD, self._ahead_SD)
        self._over = pairing.over_both(*self._better)

    @property
    def p_value(self) -> float:
        """Of the claim, or of its opposite, whichever is nearer to what was obtained."""
        margin = self._claim.equal_within
        return self._over.p_value(0.0) if margin is None else _p_of_equality(self._over, margin)

    def row(self, p: float) -> dict[str, Any]:
        """Args: p: enlarged for the claims beside this one."""
        better_SD, worse_SD = self._better
        pairing, interval = self._pairing, self._over.interval(LEVEL)
        status, reason = self._verdict(p)
        by_document = pairing.difference(better_SD.mean(0), worse_SD.mean(0), "documents")
        lead = by_document.pop("documents")
        return {
            **dataclasses.asdict(self._claim),
            "corpus": pairing.items.source.get("corpus"),
            "status": status,
            "reason": reason,
            "p": p,
            "value_ahead": ratio(self._ahead_SD.mean(0), pairing.sizes_D),
            "value_behind": ratio(self._behind_SD.mean(0), pairing.sizes_D),
            "lead": lead,
            "lead_low": interval.low,
            "lead_high": interval.high,
            **by_document,
            "seed_leads": [pairing.difference(a, b, "x")["x"] for a, b in zip(better_SD, worse_SD, strict=True)],
            "n": pairing.count,
            "low_n": pairing.facts()["low_n"],
        }

    def _verdict(self, p: float) -> tuple[str, str | None]:
        seeds, interval, margin = len(self._ahead_SD), self._over.interval(LEVEL), self._claim.equal_within
        if self._obtained.gate is not None:
            return "INCONCLUSIVE", self._obtained.gate
        if seeds < FEWEST_SEEDS:
            return "INCONCLUSIVE", f"{seeds} training seed{'s' if seeds > 1 else ''} of at least {FEWEST_SEEDS}"
        if margin is not None and (interval.low > margin or interval.high < -margin):
            return "FAIL", None
        if p > 1 - LEVEL:
            if margin is not None:
                return "INCONCLUSIVE", f"not shown to lie within {margin:g}"
            alone = interval.excludes(0.0)
            return "INCONCLUSIVE", "excludes 0 alone, not among the other claims" if alone else "the interval holds 0"
        return ("PASS" if margin is not None or self._over.value > 0 else "FAIL"), None


def _p_of_equality(over: OverBoth, margin: float) -> float:
    """Of two one-sided tests, that the lead is above -margin and that it is below margin, the larger p (Schuirmann 1987)."""

    def one_sided(border: float, inside: bool) -> float:
        half = over.p_value(border) / 2
        return half if inside else 1 - half

    return max(one_sided(-margin, over.value > -margin), one_sided(margin, over.value < margin))
