"""Parts of a corpus that has no splits of its own: the hash of a document's name decides.

A name is always in the same part, so that nothing moves from one split to another when a corpus grows.
"""

import hashlib
import re
from collections.abc import Collection
from typing import NamedTuple

from lmarch.config import DataConfig
from lmarch.data.documents import SPLITS, Split
from lmarch.errors import UserError

TEST, VALIDATION = 0.05, 0.10  # hashes below the first are for testing, the others below the second for validation
BY_HASH = (f"[{VALIDATION:.0%}:]", f"[{TEST:.0%}:{VALIDATION:.0%}]", f"[:{TEST:.0%}]")  # in the order of SPLITS
_WRITTEN = re.compile(r"(?P<set>[^\[\]]*)(\[((?P<low>\d+(\.\d+)?)%)?:((?P<high>\d+(\.\d+)?)%)?\])?")


def place(name: str) -> float:
    """Where the hash of a name falls in [0, 1)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


class Part(NamedTuple):
    """The documents of a set whose names have their hash between two places."""

    set: str  # "" where a corpus is a single set
    low: float
    high: float

    def holds(self, name: str) -> bool:
        return (self.low == 0 and self.high == 1) or self.low <= place(name) < self.high


def part_of(data: DataConfig, split: Split, sets: Collection[str] = ("",)) -> Part:
    """What `data.splits` says a split is; if it says nothing, the set of that name or a part by hash.

    Args:
      sets: those that the corpus has.

    Raises:
      UserError: not of the form SET[10%:20%], a set that is not there, nothing between the two places.
    """
    usual = BY_HASH if "" in sets else SPLITS
    written = (data.splits or usual)[SPLITS.index(split)]
    found = _WRITTEN.fullmatch(written)
    if found is None:
        raise UserError(f"config.data.splits: {written!r} is not of the form {next(iter(sets))}[10%:20%]")
    low, high = float(found["low"] or 0) / 100, float(found["high"] or 100) / 100
    if not 0 <= low < high <= 1:
        raise UserError(f"config.data.splits: {written!r} holds nothing: percentages rise from 0 to 100")
    if found["set"] not in sets:
        known = ", ".join(sets)
        advice = (
            f"it has: {known}: say what is for training, validation and testing, such as --config.data.splits="
            + ",".join(f"{known.partition(',')[0]}{part}" for part in BY_HASH)
            if known
            else f"write what part of it: --config.data.splits={','.join(BY_HASH)}"
        )
        raise UserError(
            f"config.data.corpus={data.corpus!r} has no set {found['set']!r} for its {split} split; {advice}"
        )
    return Part(found["set"], low, high)
