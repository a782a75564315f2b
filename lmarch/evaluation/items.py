"""What is read and scored under one condition: every measurement of a model is one of `Items`."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """N rows of W + 1 tokens: W are fed, and the last S are predicted."""

    rows_NT: np.ndarray  # int32, T = W + 1
    bytes_NS: np.ndarray  # int32, UTF-8 bytes of each target
    scored_NS: np.ndarray  # bool: which targets count
    clusters_N: np.ndarray  # int: the document of each row, or its own number: what intervals resample
    given: int | None  # of the W + 1 tokens, how many a prefix decoder sees both ways or an encoder reads
    seed: int  # of resamples, and of sampled positions
    source: Mapping[str, Any]  # entries of a result row: where the items are from

    def __post_init__(self) -> None:
        count = len(self.rows_NT)
        assert self.scored_NS.shape == self.bytes_NS.shape == (count, self.targets)
        assert self.clusters_N.shape == (count,)
        assert self.given is None or 1 <= self.given <= self.length + 1 - self.targets

    @property
    def length(self) -> int:
        """W, in tokens of the text."""
        return self.rows_NT.shape[1] - 1

    @property
    def targets(self) -> int:
        return self.bytes_NS.shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of all that scores depend on; which targets count is not a part of it."""
        sha = hashlib.sha256(np.ascontiguousarray(self.rows_NT, np.int32).tobytes())
        sha.update(repr((self.rows_NT.shape, self.targets, self.given, self.seed)).encode())
        return sha.hexdigest()[:12]

    def of_rows(self, chosen_N: np.ndarray) -> "Items":
        """Some of the rows."""
        arrays = {name: getattr(self, name)[chosen_N] for name in ("rows_NT", "bytes_NS", "scored_NS", "clusters_N")}
        return dataclasses.replace(self, **arrays)

    def counting(self, scored_NS: np.ndarray) -> "Items":
        """The same rows, of whose targets only these count."""
        return dataclasses.replace(self, scored_NS=scored_NS)
