"""Frequency maps h(i): how fast channel pair i turns, in radians per position.

All are computed in float64 from their parameters; i = 0 .. K/2 - 1, K the head size, b the base, L the trained length.
"""

import dataclasses
import math

import numpy as np

from lmarch.branches import Branch
from lmarch.errors import UserError
from lmarch.positions.position import POSITIONS, Position, PositionContext, canonical, require_even


def geometric(head_dim: int, base: float) -> np.ndarray:
    """theta_i = base^(-2i/K), float64 [K/2]."""
    return float(base) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


@POSITIONS.register("rope")
@dataclasses.dataclass(frozen=True)
class Rope:
    """theta_i = b^(-2i/K) (Su et al. 2021, arXiv 2104.09864). Half-split layout: pair i is channels (i, i + K/2)."""

    def position(self, name: str, context: PositionContext) -> Position:
        require_even(context, name)
        frequencies = geometric(context.head_dim, context.rope_base)
        return Position(canonical(name, self), (Branch(),), tuple(frequencies))


@dataclasses.dataclass(frozen=True)
class Stretched:
    """Shared by the maps that stretch the trained length by `factor` (default: target length / trained length)."""

    factor: float | None = None

    def resolve(self, name: str, context: PositionContext) -> tuple[float, int]:
        """The factor, and the length it is meant for."""
        factor = context.stretch if self.factor is None else self.factor
        if not 1 <= factor < math.inf:
            raise UserError(f"{name} factor={factor:g} must be 1 or more: it is target length / trained length")
        return factor, math.floor(factor * context.trained_length)


@POSITIONS.register("linear")
@dataclasses.dataclass(frozen=True)
class Linear(Stretched):
    """Position interpolation: theta_i / factor, the index t as t / factor (Chen et al. 2023, arXiv 2306.15595)."""

    def position(self, name: str, context: PositionContext) -> Position:
        require_even(context, name)
        factor, reach = self.resolve(name, context)
        frequencies = geometric(context.head_dim, context.rope_base) / factor
        method = canonical(name, dataclasses.replace(self, factor=factor))
        return Position(method, (Branch(),), tuple(frequencies), index_scale=1 / factor, design_length=reach)


@POSITIONS.register("ntk")
@dataclasses.dataclass(frozen=True)
class Ntk(Stretched):
    """NTK-aware base change: base b factor^(K/(K-2)), so that the first frequency stays and the last is theta / factor.

    bloc97 2023. (The YaRN paper's runs used base b * factor instead; that is not this map.)
    """

    def position(self, name: str, context: PositionContext) -> Position:
        require_even(context, name)
        factor, reach = self.resolve(name, context)
        if context.head_dim < 4:
            raise UserError(f"{name} needs a head size of 4 or more, got {context.head_dim}: K/(K-2) is its exponent")
        base = context.rope_base * factor ** (context.head_dim / (context.head_dim - 2))
        method = canonical(name, dataclasses.replace(self, factor=factor))
        return Position(method, (Branch(),), tuple(geometric(context.head_dim, base)), design_length=reach)
