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

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.errors import UserError

Bounds = tuple[int | None, int | None]  # inclusive; None is unbounded
EVERYTHING: Bounds = (None, None)
Both = tuple[Any, Any]
# Are keys after their query seen: never, in a prefix, always? `cross`: keys are those of another text.
MaskKind = Literal["causal", "prefix", "bidirectional", "cross"]


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
        """Return the pairs of these coordinates, each given as (of the queries, of the keys)."""
        return cls(*positions, *indices, *ranks, *windows)


def array_namespace(*values: Any) -> Any:
    """Return `jax.numpy` if any of the values is an array of JAX (or a tracer of one), else `numpy`.

    Plain numbers count as NumPy's, which makes scalars of them: integers stay integers. None is an absent coordinate.
    """
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


@dataclasses.dataclass(frozen=True)
class Region:
    """The pairs that satisfy every bound. The first two are on positions, the others on indices."""

    distance: Bounds = EVERYTHING  # t - s
    block_size: int = 1
    block_distance: Bounds = EVERYTHING  # t // block_size - s // block_size
    lag: Bounds = EVERYTHING  # how many tokens back the key lies
    rank: Bounds = EVERYTHING  # of the key in its document

    def contains(self, pairs: Pairs) -> Any:
        """Return whether each pair satisfies every bound: a boolean array of the pairs' joint shape."""
        inside = array_namespace(*pairs).ones_like(pairs.query_index - pairs.key_index, dtype=bool)
        for name, value in self._coordinates(pairs, pairs).items():
            least, most = getattr(self, name)
            if least is not None:
                inside = inside & (value >= least)
            if most is not None:
                inside = inside & (value <= most)
        return inside

    def may_meet(self, low: Pairs, high: Pairs) -> Any:
        """Return False only where no pair whose coordinates lie between `low` and `high` is inside.

        Each coordinate is judged alone, so there may be no such pair where it returns True.
        """
        # A difference is smallest between the first query and the last key; the rank of a key at the first key.
        smallest = {**self._coordinates(low, high), "rank": low.key_rank}
        largest = {**self._coordinates(high, low), "rank": high.key_rank}
        meets = array_namespace(*low, *high).ones_like(low.query_index, dtype=bool)
        for name in smallest:
            least, most = getattr(self, name)
            if least is not None:
                meets = meets & (largest[name] >= least)
            if most is not None:
                meets = meets & (smallest[name] <= most)
        return meets

    def _coordinates(self, queries: Pairs, keys: Pairs) -> dict[str, Any]:
        """Return what each field of bounds is about, of the queries of some pairs and the keys of others."""
        c = self.block_size
        return {
            "distance": queries.query_position - keys.key_position,
            "block_distance": queries.query_position // c - keys.key_position // c,
            "lag": queries.query_index - keys.key_index,
            "rank": keys.key_rank,
        }

    def __and__(self, other: "Region") -> "Region":
        """Return the region of the pairs that are in both."""
        blocked = self if self.block_distance != EVERYTHING else other
        if EVERYTHING not in (self.block_distance, other.block_distance):
            sizes = f"{self.block_size} and {other.block_size}"
            raise UserError(f"positions and window or selection count blocks of {sizes} tokens: leave one of them out")
        return Region(
            distance=_intersection(self.distance, other.distance),
            block_size=blocked.block_size,
            block_distance=blocked.block_distance,
            lag=_intersection(self.lag, other.lag),
            rank=_intersection(self.rank, other.rank),
        )


def _intersection(a: Bounds, b: Bounds) -> Bounds:
    lows, highs = [x for x in (a[0], b[0]) if x is not None], [x for x in (a[1], b[1]) if x is not None]
    return max(lows, default=None), min(highs, default=None)


@dataclasses.dataclass(frozen=True)
class PositionMap:
    """Map an index to a position: `min(scale * ((index mod modulus) div group) + offset, ceiling)`, each part optional.

    One formula serves every index map of the catalogue: t; the constant w of ReRoPE (scale 0, offset w); the
    compressed w + (t - w) / k of Leaky ReRoPE; the grouped t // G of Self-Extend; the chunked t mod c of dual chunk.
    """

    modulus: int | None = None
    group: int | None = None
    scale: float = 1
    offset: float = 0
    ceiling: float | None = None

    def __call__(self, index: Any) -> Any:
        """Return the positions of integer indices; they are integers too where scale and offset are."""
        position = index if self.modulus is None else index % self.modulus
        position = position if self.group is None else position // self.group
        position = position * self.scale + self.offset
        return position if self.ceiling is None else array_namespace(position).minimum(position, self.ceiling)


@dataclasses.dataclass(frozen=True)
class Branch:
    """Inside `region` a pair's effective distance is `query(t) - key(s)`."""

    region: Region = Region()
    query: PositionMap = PositionMap()
    key: PositionMap = PositionMap()
    ranked: bool = False  # whether t and s are ranks instead of positions

    def places(self, pairs: Pairs) -> tuple[Any, Any]:
        """Return the positions at which the query and the key of each pair are treated."""
        if self.ranked:
            return self.query(pairs.query_rank), self.key(pairs.key_rank)
        return self.query(pairs.query_position), self.key(pairs.key_position)

    def distance(self, pairs: Pairs) -> Any:
        """Return the effective distance of each pair."""
        t, s = self.places(pairs)
        return t - s


def at(position: int) -> PositionMap:
    """Return the map that puts every index at one position."""
    return PositionMap(scale=0, offset=position)
