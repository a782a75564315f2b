"""The AttentionSpec: one attention layer, described completely and built from position x visibility."""

import dataclasses
import math

import numpy as np

from lmarch.branches import Branch, Pairs, Sight
from lmarch.errors import UserError, nearest
from lmarch.positions import Parameter, Position, PositionContext, build_position
from lmarch.registry import Variant, describe, format_variant
from lmarch.visibility import ARCHITECTURES, Visibility, build_window


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Hashable, so that it can be a static argument of a compiled function.

    A pair is attended to when it is visible and, when packed, both tokens belong to the same document. Every visible
    pair lies in the region of exactly one of the branches.
    """

    architecture: str
    num_heads: int
    head_dim: int
    trained_length: int
    target_length: int
    position: Position
    window: str  # canonical, with every derived parameter spelled out
    visibility: Visibility
    branches: tuple[Branch, ...]  # the position's, narrowed by the window
    bounded: bool = False  # position or window promise distances below the trained length
    sink: bool = False  # a learned logit per head in the denominator of the softmax

    @property
    def sight(self) -> Sight:
        return ARCHITECTURES[self.architecture].sight

    def learned(self) -> dict[str, Parameter]:
        """What the layer learns besides its projections: of its bias, its temperature and its sink."""
        position = self.position
        found = position.bias.parameters() if position.bias else {}
        if position.temperature:
            found |= position.temperature.parameters(self.num_heads)
        if self.sink:
            found["sink_logit"] = Parameter((self.num_heads,), ("heads",), lambda key: np.zeros(self.num_heads))
        return found

    def visible(self, length: int, prefix_length: int | None = None) -> np.ndarray:
        """Which pairs of an unpacked row are attended to: bool [T, S], query by key."""
        pairs = _pairs(length)
        in_prefix = None if prefix_length is None else pairs.key_rank < prefix_length
        seen: np.ndarray = self.visibility.contains(pairs, in_prefix)
        return seen

    def effective_distance(self, length: int, prefix_length: int | None = None) -> np.ndarray:
        """The distance every visible pair is rotated by, in units of the trained index: float64 [T, S]; else NaN."""
        pairs, visible = _pairs(length), self.visible(length, prefix_length)
        distance = np.full((length, length), np.nan)
        for branch in self.branches:
            inside = visible & branch.region.contains(pairs)
            distance = np.where(inside, branch.distance(pairs) * self._index_scale, distance)
        return distance

    def largest_distance(self, length: int) -> float:
        """The largest effective distance in a text of `length` tokens, found in O(T): every map has it at key 0."""
        pairs = Pairs.of(*((np.arange(length), np.zeros(length, int)),) * 3)
        visible = self.visibility.contains(pairs, key_in_prefix=True)
        inside = [(visible & branch.region.contains(pairs), branch.distance(pairs)) for branch in self.branches]
        return self._index_scale * max(float(np.max(d, where=seen, initial=0.0)) for seen, d in inside)

    @property
    def _index_scale(self) -> float:
        return self.position.rotation.index_scale if self.position.rotation else 1.0

    def check_length(self, length: int) -> None:
        """UserError if the position method cannot compute a text of `length` tokens at all."""
        longest = self.position.longest
        if longest is not None and length > longest:
            raise UserError(f"{self.position.method} cannot go beyond {longest} tokens, and the text has {length}")

    def out_of_design(self, length: int, seen: int | None = None) -> str | None:
        """Why a result at `length` lies outside what the layer is meant for, or None.

        Args:
          seen: how many positions training drew from; default: the trained length.
        """
        position, reasons = self.position, list(self.position.remarks)
        if position.design_length is not None and length > position.design_length:
            reasons.append(
                f"{position.method} is stretched for {position.design_length} tokens and is used at {length}"
            )
        last = (seen or self.trained_length) - 1
        if self.bounded and (reach := self.largest_distance(length)) > last + 1e-9:
            promise = position.method if self.window == "full" else f"{position.method} in window {self.window}"
            reasons.append(f"{promise} uses distance {reach:g} at {length}; training saw {last}")
        return "; ".join(reasons) or None


def _pairs(length: int) -> Pairs:
    index = np.arange(length)
    return Pairs.of(*((index[:, None], index[None, :]),) * 3)


def attention_spec(
    *,
    architecture: str = "causal_decoder",
    position: Variant = "rope",
    window: Variant = "full",
    head_dim: int,
    num_heads: int,
    trained_length: int,
    target_length: int | None = None,
    rope_base: float = 10_000.0,
    sink: bool = False,
) -> AttentionSpec:
    """One attention layer from the names and parameters that configs use.

    Args:
      architecture: `causal_decoder`, `prefix_decoder` or `encoder`.
      position: a position method, as a name, `name:parameter=value` or `{"name": ..., **parameters}`.
      window: a context window, written the same way.
      head_dim: channels a head, K.
      trained_length: L, the longest row seen in training, in tokens.
      target_length: L', the length the method is stretched to; default: L.
      sink: a learned logit per head in the denominator of the softmax (gpt-oss), so that a query may attend to nothing.

    Raises:
      UserError: an unknown name or parameter, or a combination that cannot work, with the reason.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"unknown architecture {architecture!r}; {nearest(architecture, ARCHITECTURES)}")
    for name, size in {"head_dim": head_dim, "num_heads": num_heads, "trained_length": trained_length}.items():
        if size < 1:
            raise UserError(f"{name}={size} must be above 0")
    if not 1 < rope_base < math.inf:
        raise UserError(f"rope_base={rope_base:g} must be above 1: the slower pairs turn with its negative powers")
    target_length = trained_length if target_length is None else target_length
    if target_length < trained_length:
        raise UserError(f"target_length={target_length} is below trained_length={trained_length}: it must not be")
    full = ARCHITECTURES[architecture]
    context = PositionContext(head_dim, rope_base, trained_length, target_length, num_heads, full.sight)
    made, narrowing = build_position(position, context), build_window(window, trained_length)
    visibility, branches = narrowing.narrow(full, made.branches)
    return AttentionSpec(
        architecture,
        num_heads,
        head_dim,
        trained_length,
        target_length,
        made,
        format_variant(describe(narrowing)),
        visibility,
        branches,
        made.bounded or narrowing.bounded,
        sink,
    )
