"""The AttentionSpec: one attention layer, described completely and built from position x visibility."""

import dataclasses
import math

import numpy as np

from lmarch.branches import Branch, MaskKind, Pairs
from lmarch.content import Parameter, ReadsContent
from lmarch.errors import UserError, nearest
from lmarch.positions import Position, PositionContext, build_position
from lmarch.registry import Variant, describe, format_variant, label
from lmarch.visibility import ARCHITECTURES, PositionTraits, Selection, Visibility, build_selection, build_window


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Hashable, so that it can be a static argument of a compiled function.

    A pair is attended to when it is visible and, when packed, both tokens belong to the same document. Every visible
    pair lies in the region of exactly one of the branches.
    """

    architecture: str
    num_heads: int
    head_dim: int  # of queries and keys
    value_dim: int
    trained_length: int
    target_length: int
    position: Position
    window: str  # canonical, with every derived parameter spelled out
    visibility: Visibility
    branches: tuple[Branch, ...]  # the position's, narrowed by the window
    bounded: bool = False  # position or window promise distances below the trained length
    selection: Selection | None = None  # what of the visible pairs is attended to; None: all
    sink: bool = False  # a learned logit per head in the denominator of the softmax
    logit_scale: float = 1.0  # of the float32 products of queries and keys
    softcap: float | None = None  # c: logits become c tanh(logits / c), after the bias

    @property
    def mask_kind(self) -> MaskKind:
        return ARCHITECTURES[self.architecture].mask_kind

    @property
    def stepwise(self) -> bool:
        """Whether keys are turned anew for every query, for the text so far."""
        return self.position.rotation is not None and self.position.rotation.stepwise

    @property
    def keys_rotate_alone(self) -> bool:
        """Whether a key's rotation is its own, so that a cache can keep it rotated."""
        return not self.stepwise and (self.position.rotation is None or self.position.rotation.log_decay is None)

    @property
    def content(self) -> dict[str, ReadsContent]:
        """What of the layer reads the states of its tokens, by the name under which its features are known."""
        bias = self.position.bias
        return {
            **({"bias": bias.method} if bias is not None and bias.method.reads_content else {}),
            **({"selection": self.selection} if self.selection is not None and self.selection.reads_content else {}),
        }

    @property
    def needs_length(self) -> bool:
        """Whether anything depends on the length of the whole text, which a decoder must then be told beforehand."""
        rotation, temperature = self.position.rotation, self.position.temperature
        by_length = rotation is not None and rotation.by_length is not None and not rotation.stepwise
        return by_length or (temperature is not None and temperature.by_length)

    @property
    def narrowing(self) -> tuple[str, ...]:
        """The canonical names of the window and the selection, as far as they narrow anything."""
        selecting = () if self.selection is None else (format_variant(describe(self.selection)),)
        return (self.window,) * (self.window != "full") + selecting

    def learned(self, dim: int | None = None) -> dict[str, Parameter]:
        """What the layer learns besides its projections: of its bias, its temperature, its selection and its sink.

        Args:
          dim: channels of the states that are read for features; none: what is learned for those is left out.
        """
        position = self.position
        learned = position.bias.parameters() if position.bias else {}
        if position.temperature:
            learned |= position.temperature.parameters(self.num_heads)
        if self.selection:
            learned |= self.selection.parameters(self.num_heads)
        if self.sink:
            learned["sink_logit"] = Parameter((self.num_heads,), ("heads",), lambda key: np.zeros(self.num_heads))
        if dim is not None:
            for reader in self.content.values():
                learned |= reader.content_parameters(dim, self.num_heads)
        return learned

    def visible(self, length: int, prefix_length: int | None = None) -> np.ndarray:
        """Which pairs of an unpacked row are attended to: bool [T, S], query by key."""
        pairs = self._pairs(length)
        in_prefix = None if prefix_length is None else pairs.key_rank < prefix_length
        seen: np.ndarray = self.visibility.contains(pairs, in_prefix)
        return seen

    def effective_distance(self, length: int, prefix_length: int | None = None) -> np.ndarray:
        """The distance every visible pair is rotated by, in units of the trained index: float64 [T, S]; else NaN."""
        pairs, visible = self._pairs(length), self.visible(length, prefix_length)
        distance = np.full((length, length), np.nan)
        for branch in self.branches:
            inside = visible & branch.region.contains(pairs)
            distance = np.where(inside, branch.distance(pairs) * self._index_scale, distance)
        return distance

    def largest_distance(self, length: int) -> float:
        """The largest effective distance in a text of `length` tokens, found in O(T): every map has it at key 0."""
        if self.visibility.layout is not None:
            length = self.visibility.layout.largest_position(length) + 1
        pairs = Pairs.of(*((np.arange(length), np.zeros(length, int)),) * 3)
        visible = self.visibility.contains(pairs, key_in_prefix=True)
        inside = [(visible & branch.region.contains(pairs), branch.distance(pairs)) for branch in self.branches]
        return self._index_scale * max(float(np.max(d, where=seen, initial=0.0)) for seen, d in inside)

    def _pairs(self, length: int) -> Pairs:
        index = np.arange(length)
        places, windows = index, None
        if self.visibility.layout is not None:
            windows, places = self.visibility.layout.arrange(index, length)
        of_windows = (None, None) if windows is None else (windows[:, None], windows[None, :])
        positions, indices = ((x[:, None], x[None, :]) for x in (places, index))
        return Pairs.of(positions, indices, indices, of_windows)

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
            promise = " in ".join([position.method, *self.narrowing])
            reasons.append(f"{promise} uses distance {reach:g} at {length}; training saw {last}")
        return "; ".join(reasons) or None


def attention_spec(
    *,
    architecture: str = "causal_decoder",
    position: Variant = "rope",
    window: Variant = "full",
    head_dim: int,
    value_dim: int | None = None,
    position_dim: int | None = None,
    num_heads: int,
    trained_length: int,
    target_length: int | None = None,
    rope_base: float = 10_000.0,
    selection: Variant | None = None,
    sink: bool = False,
    logit_scale: float | None = None,
    softcap: float | None = None,
) -> AttentionSpec:
    """One attention layer from the names and parameters that configs use.

    Args:
      architecture: who may see whom: `causal_decoder`, `prefix_decoder`, or the other two sites of an encoder-decoder,
        `encoder` and `cross_attention`.
      position: a position method, as a name, `name:parameter=value` or `{"name": ..., **parameters}`.
      window: a context window, written the same way.
      head_dim: channels of a head's queries and keys, K.
      value_dim: channels of its values; default: as many.
      position_dim: of which the position method may use the first so many; default: all.
      trained_length: L, the longest row seen in training, in tokens.
      target_length: L', the length the method is stretched to; default: L.
      selection: which of the visible keys a query attends to, written the same way; default: all.
      sink: a learned logit per head in the denominator of the softmax (gpt-oss), so that a query may attend to nothing.
      logit_scale: default 1 / sqrt(head_dim); T5 has 1.
      softcap: keeps logits within +-softcap through a tanh (Gemma 2).

    Raises:
      UserError: an unknown name or parameter, or a combination that cannot work, with the reason.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"unknown architecture {architecture!r}; {nearest(architecture, ARCHITECTURES)}")
    value_dim = head_dim if value_dim is None else value_dim
    sizes = {"head_dim": head_dim, "value_dim": value_dim, "num_heads": num_heads, "trained_length": trained_length}
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}={size} must be above 0")
    if not 1 < rope_base < math.inf:
        raise UserError(f"rope_base={rope_base:g} must be above 1: the slower pairs turn with its negative powers")
    for name, value in {"logit_scale": logit_scale, "softcap": softcap}.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name}={value:g} must be above 0 and finite")
    target_length = trained_length if target_length is None else target_length
    if target_length < trained_length:
        raise UserError(f"target_length={target_length} is below trained_length={trained_length}: it must not be")
    full = ARCHITECTURES[architecture]
    context = PositionContext(
        position_dim or head_dim, rope_base, trained_length, target_length, num_heads, full.mask_kind
    )
    placing, narrowing = build_position(position, context), build_window(window, trained_length, full.mask_kind)
    window_name = format_variant(describe(narrowing))
    if full.cross:
        _check_cross(placing, window_name)
    visibility, branches = narrowing.narrow(full, placing.branches)
    selecting = None
    if selection is not None:
        selecting = build_selection(selection, trained_length, full.mask_kind)
        _check_selection(selecting, placing, branches, window_name)
        visibility, branches = selecting.narrow(visibility, branches)
    return AttentionSpec(
        architecture=architecture,
        num_heads=num_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        trained_length=trained_length,
        target_length=target_length,
        position=placing,
        window=window_name,
        visibility=visibility,
        branches=branches,
        bounded=placing.bounded or narrowing.bounded or (selecting is not None and selecting.bounded),
        selection=selecting,
        sink=sink,
        logit_scale=head_dim**-0.5 if logit_scale is None else logit_scale,
        softcap=softcap,
    )


def _check_selection(selection: Selection, position: Position, branches: tuple[Branch, ...], window: str) -> None:
    """UserError for a window or a position that the selection has no meaning for."""
    if window != "full":
        raise UserError(f"selection {label(selection)} has a local window of its own: leave window={window} out")
    rotation = position.rotation
    if rotation is not None and (rotation.stepwise or rotation.log_decay is not None):
        raise UserError(
            f"selection {label(selection)} compares keys, which {position.method} turns for each query anew"
        )
    by_length = rotation is not None and rotation.by_length is not None
    selection.check(branches, PositionTraits(position.bias is not None, position.embedding is not None, by_length))


def _check_cross(position: Position, window: str) -> None:
    """UserError for what is about distances within one text, or about its length."""
    rotation = position.rotation
    reasons = {
        "has a bias by distance": position.bias,
        "maps distances by regions": position.branches != (Branch(),),
        "adds positions to embeddings": position.embedding,
        "turns a text by its length": rotation and rotation.by_length,
    }
    for reason, found in reasons.items():
        if found:
            raise UserError(
                f"{position.method} {reason}, which cross-attention has no meaning for: use nope or a rotation"
            )
    if window != "full":
        raise UserError(f"window {window} is about one text: cross-attention sees all of the other one")
