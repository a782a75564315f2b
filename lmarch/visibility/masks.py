"""Architecture masks: which keys a query may attend to, by index, and by window where a text is cut into several.

Documents and padding are kept apart by segment ids on top of it.
"""

import dataclasses
from typing import Any, NamedTuple

from lmarch.branches import MaskKind, Pairs, Region
from lmarch.visibility.parallel import Layout, may_see_window, sees_window


@dataclasses.dataclass(frozen=True)
class Visibility:
    """Pairs in `always` are visible; those in `to_prefix` where the key lies in its document's prefix."""

    always: tuple[Region, ...]
    to_prefix: tuple[Region, ...] = ()
    cross: bool = False  # queries and keys are of two texts
    layout: Layout | None = None  # windows side by side; None: the text is in one piece

    def contains(self, pairs: Pairs, key_in_prefix: Any = None) -> Any:
        """Return whether each pair is visible: a boolean array of the pairs' joint shape.

        Args:
          key_in_prefix: whether the key of a pair lies in its document's prefix, broadcastable to the pairs; None: there
            are no prefixes.
        """
        visible: Any = False
        for region in self.always:
            visible = visible | region.contains(pairs)
        if key_in_prefix is not None:
            for region in self.to_prefix:
                visible = visible | (region.contains(pairs) & key_in_prefix)
        if pairs.query_window is not None:
            visible = visible & sees_window(pairs.query_window, pairs.key_window)
        return visible

    def may_meet(self, low: Pairs, high: Pairs, some_key_in_prefix: Any = None) -> Any:
        """Return False only where no pair whose coordinates lie between `low` and `high` is visible.

        Args:
          some_key_in_prefix: whether any key lies in its document's prefix; None: there are no prefixes.
        """
        visible: Any = False
        for region in self.always:
            visible = visible | region.may_meet(low, high)
        if some_key_in_prefix is not None:
            for region in self.to_prefix:
                visible = visible | (region.may_meet(low, high) & some_key_in_prefix)
        if low.query_window is not None:
            visible = visible & may_see_window(low, high)
        return visible

    @property
    def mask_kind(self) -> MaskKind:
        """Say whether keys after their query are seen: never (`causal`), those of a `prefix`, always (`bidirectional`)."""
        if self.cross:
            return "cross"
        if any(region.lag[0] is None or region.lag[0] < 0 for region in self.always):
            return "bidirectional"
        return "prefix" if self.to_prefix else "causal"

    def cache_needs(self) -> "CacheNeeds | None":
        """Return which tokens of a text a decoder must keep to see all that it may; None: every token."""
        sinks = reach = 0
        for region in (*self.always, *self.to_prefix):
            if region.lag[1] is not None:
                reach = max(reach, region.lag[1])
            elif region.rank[1] is not None:
                sinks = max(sinks, region.rank[1] + 1)
            else:
                return None
        return CacheNeeds(sinks, reach)


class CacheNeeds(NamedTuple):
    """The tokens of a text that later ones may still see."""

    sinks: int  # the first so many
    reach: int  # and those at most this many tokens back


PAST, FUTURE = Region(lag=(0, None)), Region(lag=(None, -1))

ARCHITECTURES: dict[str, Visibility] = {
    "causal_decoder": Visibility((PAST,)),
    "prefix_decoder": Visibility((PAST,), to_prefix=(FUTURE,)),
    # The sites of an encoder-decoder besides its decoder's self-attention, which is that of a causal decoder.
    "encoder": Visibility((Region(),)),
    "cross_attention": Visibility((Region(),), cross=True),
}
