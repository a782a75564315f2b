"""The vocabulary that positions and visibility share: regions of (query, key) pairs, and branches on them.

A pair is (t, s): query t, key s, both counted from 0; its distance is d = t - s, so d >= 0 for a causal pair. A method
with piecewise positions is a short tuple of branches with disjoint regions; inside its region a pair's *effective
distance*, the one RoPE turns by, is `query(t) - key(s)`.
"""

import dataclasses
from typing import Any

Bounds = tuple[int | None, int | None]  # inclusive; None is unbounded
EVERYTHING: Bounds = (None, None)


@dataclasses.dataclass(frozen=True)
class Tile:
    """Queries first_query..last_query against keys first_key..last_key, all inclusive; Python or JAX integers."""

    first_query: Any
    last_query: Any
    first_key: Any
    last_key: Any


@dataclasses.dataclass(frozen=True)
class Region:
    """The pairs that satisfy every bound: on the distance, on the key, on the distance counted in whole blocks."""

    distance: Bounds = EVERYTHING
    key: Bounds = EVERYTHING
    block_size: int = 1
    block_distance: Bounds = EVERYTHING  # t // block_size - s // block_size

    def contains(self, t: Any, s: Any) -> Any:
        """Elementwise for broadcastable integer arrays t, s (NumPy or JAX): a boolean array of their joint shape."""
        inside = (t - s) == (t - s)
        in_blocks = t // self.block_size - s // self.block_size
        for value, (low, high) in ((t - s, self.distance), (s, self.key), (in_blocks, self.block_distance)):
            inside = inside if low is None else inside & (value >= low)
            inside = inside if high is None else inside & (value <= high)
        return inside

    def may_meet(self, tile: Tile) -> Any:
        """False only if no pair of the tile is inside (interval arithmetic; it may say True of an empty meeting)."""
        meets: Any = True
        for least, most, (low, high) in self._ranges(tile):
            meets = meets if low is None else meets & (most >= low)
            meets = meets if high is None else meets & (least <= high)
        return meets

    def _ranges(self, tile: Tile) -> tuple[tuple[Any, Any, Bounds], ...]:
        """The smallest and largest value of each bounded coordinate over the tile."""
        t, last_t, s, last_s = tile.first_query, tile.last_query, tile.first_key, tile.last_key
        c = self.block_size
        return (
            (t - last_s, last_t - s, self.distance),
            (s, last_s, self.key),
            (t // c - last_s // c, last_t // c - s // c, self.block_distance),
        )


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
