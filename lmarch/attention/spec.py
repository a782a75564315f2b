"""The AttentionSpec: one attention layer, described completely and built from position x visibility."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lmarch.errors import UserError, nearest
from lmarch.positions import Position, PositionContext, build_position
from lmarch.visibility import ARCHITECTURES, Visibility, build_visibility


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Hashable, so that it can be a static argument of a compiled function.

    A pair is attended to when its indices lie in one of `visibility`'s regions and its positions in the region of
    one of the position's branches (and, when packed, both tokens belong to the same document).
    """

    architecture: str
    num_heads: int
    head_dim: int
    trained_length: int
    target_length: int
    position: Position
    visibility: Visibility

    def visible(self, length: int) -> np.ndarray:
        """Which pairs of an unpacked row are attended to: bool [T, S], query by key."""
        t, s = _indices(length)
        seen = np.any([region.contains(t, s) for region in self.visibility], axis=0)
        return seen & np.any([branch.region.contains(t, s) for branch in self.position.branches], axis=0)

    def effective_distance(self, length: int) -> np.ndarray:
        """The distance every visible pair is rotated by, in units of the trained index: float64 [T, S]; else NaN."""
        t, s = _indices(length)
        distance = np.full((length, length), np.nan)
        for branch in self.position.branches:
            inside = self.visible(length) & branch.region.contains(t, s)
            effective = (branch.query(t) - branch.key(s)) * self.position.index_scale
            distance = np.where(inside, effective, distance)
        return distance


def _indices(length: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(length)
    return index[:, None], index[None, :]


def attention_spec(
    *,
    architecture: str = "causal_decoder",
    position: str | Mapping[str, Any] = "rope",
    window: str | Mapping[str, Any] = "full",
    head_dim: int,
    num_heads: int,
    trained_length: int,
    target_length: int | None = None,
    rope_base: float = 10_000.0,
) -> AttentionSpec:
    """One attention layer from the names and parameters that configs use.

    Args:
      position: a position method, as a name, `name:parameter=value` or `{"name": ..., **parameters}`.
      window: a context window, written the same way.
      head_dim: channels a head, K.
      trained_length: L, the longest row seen in training, in tokens.
      target_length: L', the length the method is stretched to; default: L.

    Raises:
      UserError: an unknown name or parameter, or a combination that cannot work, with the reason.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"unknown architecture {architecture!r}; {nearest(architecture, ARCHITECTURES)}")
    for name, size in {"head_dim": head_dim, "num_heads": num_heads, "trained_length": trained_length}.items():
        if size < 1:
            raise UserError(f"{name}={size} must be above 0")
    target_length = trained_length if target_length is None else target_length
    if target_length < trained_length:
        raise UserError(f"target_length={target_length} is below trained_length={trained_length}: it must not be")
    context = PositionContext(head_dim, rope_base, trained_length, target_length)
    made = build_position(position, context)
    visibility = build_visibility(architecture, window)
    if made.needs_order_from_mask and any(region.distance[0] is None for region in visibility):
        raise UserError(
            f"position {made.method!r} sees a bag of words where attention is bidirectional ({architecture})"
        )
    return AttentionSpec(architecture, num_heads, head_dim, trained_length, target_length, made, visibility)
