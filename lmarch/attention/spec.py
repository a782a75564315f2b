"""The AttentionSpec: one attention layer, described completely and built from position x visibility."""

import dataclasses

import numpy as np

from lmarch.branches import Branch, Pairs, Sight
from lmarch.errors import UserError, nearest
from lmarch.positions import Parameter, Position, PositionContext, build_position
from lmarch.registry import Variant, format_variant, parameters
from lmarch.visibility import ARCHITECTURES, Visibility, build_window


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Hashable, so that it can be a static argument of a compiled function.

    A pair is attended to when it is visible and lies in the region of one of the branches (and, when packed, both
    tokens belong to the same document).
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
        seen = self.visibility.contains(pairs, in_prefix)
        return np.asarray(seen & np.any([branch.region.contains(pairs) for branch in self.branches], axis=0))

    def effective_distance(self, length: int, prefix_length: int | None = None) -> np.ndarray:
        """The distance every visible pair is rotated by, in units of the trained index: float64 [T, S]; else NaN."""
        pairs, visible = _pairs(length), self.visible(length, prefix_length)
        scale = self.position.rotation.index_scale if self.position.rotation else 1.0
        distance = np.full((length, length), np.nan)
        for branch in self.branches:
            effective = (branch.query(pairs.query_position) - branch.key(pairs.key_position)) * scale
            distance = np.where(visible & branch.region.contains(pairs), effective, distance)
        return distance

    def largest_distance(self, length: int) -> float:
        """The largest effective distance in a text of `length` tokens, found in O(T): every map has it at key 0."""
        index = np.arange(length)
        pairs = Pairs(index, np.zeros_like(index), index, np.zeros_like(index), np.zeros_like(index))
        visible = self.visibility.contains(pairs)
        scale = self.position.rotation.index_scale if self.position.rotation else 1.0
        largest = 0.0
        for branch in self.branches:
            inside = visible & branch.region.contains(pairs)
            effective = (branch.query(pairs.query_position) - branch.key(pairs.key_position)) * scale
            largest = max(largest, np.max(effective, where=inside, initial=0.0))
        return largest

    def check_length(self, length: int) -> None:
        """UserError if the position method cannot compute a text of `length` tokens at all."""
        longest = self.position.longest
        if longest is not None and length > longest:
            raise UserError(f"{self.position.method} cannot go beyond {longest} tokens, and the text has {length}")

    def out_of_design(self, length: int) -> str | None:
        """Why a result at `length` lies outside what the layer is meant for, or None."""
        position, reasons = self.position, list(self.position.remarks)
        if position.design_length is not None and length > position.design_length:
            reasons.append(
                f"{position.method} is stretched for {position.design_length} tokens and is used at {length}"
            )
        if self.bounded and (reach := self.largest_distance(length)) > self.trained_length - 1 + 1e-9:
            promise = position.method if self.window == "full" else f"{position.method} in window {self.window}"
            reasons.append(f"{promise} uses distance {reach:g} at {length}; training saw {self.trained_length - 1}")
        return "; ".join(reasons) or None


def _pairs(length: int) -> Pairs:
    index = np.arange(length)
    return Pairs(index[:, None], index[None, :], index[:, None], index[None, :], index[None, :])


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
        format_variant({"name": type(narrowing).name, **parameters(narrowing)}),  # type: ignore[attr-defined]
        visibility,
        branches,
        made.bounded or narrowing.bounded,
        sink,
    )
