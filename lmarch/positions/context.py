"""What a position method is told of its layer, and how it lists the parameters that it learns."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from lmarch.branches import Sight


@dataclasses.dataclass(frozen=True)
class PositionContext:
    """What a method may depend on. `trained_length` (L) and `target_length` (L') are never inferred from each other."""

    head_dim: int  # K, even wherever something is rotated
    rope_base: float
    trained_length: int
    target_length: int
    num_heads: int = 1
    sight: Sight = "causal"

    @property
    def stretch(self) -> float:
        """Return L' / L, the default factor of every method that has one."""
        return self.target_length / self.trained_length


class Parameter(NamedTuple):
    """An array that a method learns."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]  # logical axis names, one a dimension
    init: Callable[[Any], Any]  # random key -> array of `shape`
