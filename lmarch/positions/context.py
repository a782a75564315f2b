"""What a position method is told of its layer, and how it lists the parameters that it learns."""

import dataclasses

from lmarch.branches import MaskKind


@dataclasses.dataclass(frozen=True)
class PositionContext:
    """What a method may depend on. `trained_length` (L) and `target_length` (L') are never inferred from each other."""

    head_dim: int  # K, even wherever something is rotated
    rope_base: float
    trained_length: int
    target_length: int
    num_heads: int = 1
    mask_kind: MaskKind = "causal"

    @property
    def stretch(self) -> float:
        """Return L' / L, the default factor of every method that has one."""
        return self.target_length / self.trained_length
