"""Methods that rotate nothing."""

import dataclasses

from lmarch.branches import Branch
from lmarch.positions.position import POSITIONS, Position, PositionContext, canonical


@POSITIONS.register("nope")
@dataclasses.dataclass(frozen=True)
class Nope:
    """No encoding: a causal mask alone tells positions apart (Haviv et al. 2022; Kazemnejad et al. 2023).

    In a bidirectional layer that leaves a bag of words, so such a layer refuses it.
    """

    def position(self, name: str, context: PositionContext) -> Position:
        return Position(canonical(name, self), (Branch(),), None, needs_order_from_mask=True)
