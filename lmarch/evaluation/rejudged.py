"""What verdicts that were stored under the earlier rule come to under the present one.

That rule asked for an interval over documents alone that lies above 0, and for three training seeds of one sign. Of its
verdicts the interval over documents and the lead of each seed are stored, which is enough to join the two; only the skew of
the documents beyond the stored interval is not known. Goes when all experiments have been measured again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from lmarch.evaluation.claims import LEVEL
from lmarch.evaluation.statistics import Interval, OverBoth, holm


@dataclasses.dataclass(frozen=True)
class Rejudged:
    """An earlier verdict beside what seeds and documents together allow."""

    row: Mapping[str, Any]
    interval: Interval  # over both
    p: float  # beside the other claims of its experiment

    @property
    def found(self) -> bool:
        """0 is excluded beside the other claims, whatever the number of training seeds."""
        return self.p <= 1 - LEVEL


def rejudge(verdicts: Sequence[Mapping[str, Any]]) -> list[Rejudged]:
    """All verdicts of one experiment."""
    leads = [OverBoth(row["lead"], np.array(row["seed_leads"]), _Stored.of(row)) for row in verdicts]
    enlarged = holm([lead.p_value() for lead in leads])
    return [Rejudged(row, lead.interval(), float(p)) for row, lead, p in zip(verdicts, leads, enlarged, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """An interval of which one level is known, as if its tails were normal."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "_Stored":
        return cls(row["lead"], row["lead_low"], row["lead_high"])

    def interval(self, level: float) -> Interval:
        share = float(ndtri((1 + level) / 2) / ndtri((1 + LEVEL) / 2))
        return Interval(self.value - share * (self.value - self.low), self.value + share * (self.high - self.value))
