"""The vocabulary that positions and visibility share: regions of (query, key) pairs, and branches on them.

A pair is a query t and a key s. Of each token three things are known: its *position*, an input that may restart with
each document or be sampled; its *index* in the row; its *rank*, the index in its document. Near and far are about
positions; order, windows and sinks are about indices and ranks. A fourth, which of several *windows* side by side it is
in, is known only where there are any (`visibility/parallel.py`). A method with piecewise positions is a short tuple of
branches with disjoint regions; inside its region a pair's *effective distance*, the one RoPE turns by, is
`query(t) - key(s)`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

Bounds = tuple[int | None, int | None]  # inclusive; None is unbounded
EVERYTHING: Bounds = (None, None)
Both = tuple[Any, Any]
# Are keys after their query seen: never, in a prefix, always? `cross`: keys are those of another text.
Sight = Literal["causal", "prefix", "bidirectional", "cross"]


class Pairs(NamedTuple):
    """Coordinates of pairs: broadcastable integers or integer arrays, of NumPy or JAX."""

    query_position: Any
    key_position: Any
    query_index: Any
    key_index: Any
    query_rank: Any
    key_rank: Any
    query_window: Any = None
    key_window: Any = None

    @classmethod
    def of(cls, positions: Both, indices: Both, ranks: Both, windows: Both = (None, None)) -> "Pairs":
        """Each (of queries, of keys)."""
        return cls(*positions, *indices, *ranks, *windows)


@dataclasses.dataclass(frozen=True)
class Region:
    """The pairs that satisfy every bound. The first two are on positions, the others on indices."""

    distance: Bounds = EVERYTHING  # t - s
    block_size: int = 1
    block_distance: Bounds = EVERYTHING  # t // block_size - s // block_size
    lag: Bounds = EVERYTHING  # how many tokens back the key lies
    rank: Bounds = EVERYTHING  # of the key in its document

    def contains(self, pairs: Pairs) -> Any:
        """Elementwise: a boolean array of the pairs' joint shape."""
        inside = pairs.query_index - pairs.key_index == pairs.query_index - pairs.key_index
        for low, high, value in self._bounded(pairs, pairs):
            inside = inside if low is None else inside & (value[0] >= low)
            inside = inside if high is None else inside & (value[1] <= high)
        return inside

    def may_meet(self, low: Pairs, high: Pairs) -> Any:
        """False only where no pair between `low` and `high` is inside (interval arithmetic; True may be too hopeful)."""
        meets = low.query_index == low.query_index
        for least, most, value in self._bounded(low, high):
            meets = meets if least is None else meets & (value[1] >= least)
            meets = meets if most is None else meets & (value[0] <= most)
        return meets

    def _bounded(self, low: Pairs, high: Pairs) -> list[tuple[int | None, int | None, tuple[Any, Any]]]:
        """Each coordinate that is bounded: its bounds, its smallest and its largest value."""
        c = self.block_size
        blocks = (
            low.query_position // c - high.key_position // c,
            high.query_position // c - low.key_position // c,
        )
        distances = (low.query_position - high.key_position, high.query_position - low.key_position)
        lags = (low.query_index - high.key_index, high.query_index - low.key_index)
        coordinates = (
            (self.distance, distances),
            (self.block_distance, blocks),
            (self.lag, lags),
            (self.rank, (low.key_rank, high.key_rank)),
        )
        return [(*bounds, value) for bounds, value in coordinates if bounds != EVERYTHING]

    def __and__(self, other: "Region") -> "Region":
        """The pairs in both."""
        blocked = self if self.block_distance != EVERYTHING else other
        assert EVERYTHING in (self.block_distance, other.block_distance), "regions count in different blocks"
        return Region(
            _both(self.distance, other.distance),
            blocked.block_size,
            blocked.block_distance,
            _both(self.lag, other.lag),
            _both(self.rank, other.rank),
        )


def _both(a: Bounds, b: Bounds) -> Bounds:
    lows, highs = [x for x in (a[0], b[0]) if x is not None], [x for x in (a[1], b[1]) if x is not None]
    return max(lows, default=None), min(highs, default=None)


@dataclasses.dataclass(frozen=True)
class PositionMap:
    """index -> position: `min(scale * ((index mod modulus) div group) + offset, ceiling)`, each part optional.

    One formula serves every index map of the catalogue: t; the constant w of ReRoPE (scale 0, offset w); the
    compressed w + (t - w) / k of Leaky ReRoPE; the grouped t // G of Self-Extend; the chunked t mod c of dual chunk.
    """

    modulus: int | None = None
    group: int | None = None
    scale: float = 1
    offset: float = 0
    ceiling: float | None = None

    def __call__(self, index: Any) -> Any:
        """Positions of an integer array (NumPy or JAX); integers stay integers where scale and offset are."""
        position = index if self.modulus is None else index % self.modulus
        position = position if self.group is None else position // self.group
        position = position * self.scale + self.offset
        return position if self.ceiling is None else position - (position - self.ceiling) * (position > self.ceiling)


@dataclasses.dataclass(frozen=True)
class Branch:
    """Inside `region` a pair's effective distance is `query(t) - key(s)`."""

    region: Region = Region()
    query: PositionMap = PositionMap()
    key: PositionMap = PositionMap()
    ranked: bool = False  # whether t and s are ranks instead of positions

    def places(self, pairs: Pairs) -> tuple[Any, Any]:
        """Where query and key of each pair seem to be."""
        if self.ranked:
            return self.query(pairs.query_rank), self.key(pairs.key_rank)
        return self.query(pairs.query_position), self.key(pairs.key_position)

    def distance(self, pairs: Pairs) -> Any:
        """The effective distance of each pair."""
        t, s = self.places(pairs)
        return t - s


def at(position: int) -> PositionMap:
    """Every index sits at one position."""
    return PositionMap(scale=0, offset=position)
