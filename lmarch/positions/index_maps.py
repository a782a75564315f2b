"""Index maps g(t): piecewise in the distance d = t - s, over any frequency map, so that no angle is new.

Each is two or three branches. Where keys after their query are seen (prefixes, bidirectional layers) the far branch has
a mirror image: the effective distance of -d is minus that of d. The authors' own code is right under a causal mask only.
"""

import dataclasses
import math
from typing import Any, ClassVar

from lmarch.branches import Branch, PositionMap, Region, at
from lmarch.errors import UserError, require
from lmarch.positions.context import PositionContext
from lmarch.positions.frequencies import described, frequency_map
from lmarch.positions.position import POSITIONS, Card, PlainAt, Position
from lmarch.registry import Variant


@dataclasses.dataclass(frozen=True)
class IndexMap:
    """The base class: branches over the rotation of a frequency map."""

    frequencies: Variant = "rope"
    card: ClassVar[Card]
    plain: ClassVar[PlainAt] = None
    shift_invariant: ClassVar[bool] = True

    def resolve(self, context: PositionContext) -> Any:
        under = frequency_map(self.frequencies, context, self)
        return dataclasses.replace(self, frequencies=described(under))

    def branches(self, context: PositionContext) -> tuple[Branch, ...]:
        """Return the branches of the resolved map; their regions are disjoint and hold every pair."""
        raise NotImplementedError

    def position(self, context: PositionContext) -> Position:
        under = frequency_map(self.frequencies, context, self).position(context)
        return dataclasses.replace(under, branches=self.branches(context), bounded=True, design_length=None)


def near_and_far(
    window: int, query: PositionMap, key: PositionMap, context: PositionContext, mirrored_query: PositionMap
) -> tuple[Branch, ...]:
    """Return branches that leave d < window as it is and put farther pairs at query(t) - key(s).

    Where keys after their query are seen, pairs farther to the other side are at mirrored_query(t) - key(s).
    """
    far = Branch(Region(distance=(window, None)), query, key)
    if context.mask_kind == "causal":
        return Branch(Region(distance=(None, window - 1))), far
    mirror = Branch(Region(distance=(None, -window)), mirrored_query, key)
    return Branch(Region(distance=(1 - window, window - 1))), far, mirror


@POSITIONS.register("rerope")
@dataclasses.dataclass(frozen=True)
class ReRope(IndexMap):
    """δ = d for d < w, w beyond (Su 2023, kexue.fm 9708). Both agree at d = w, so `<` or `<=` makes no difference.

    Far pairs: the query at w, the key at 0, wherever they are. Recommended w: L/4 .. L/2; w >= L uses a distance never
    trained. The released patch also multiplies by a temperature, always; here that is `temperature=log_n`.
    """

    window: int | None = None  # w, tokens; none: L/2
    plain: ClassVar[PlainAt] = {"window": 10**6}
    card: ClassVar = Card(
        "index map",
        "δ = min(d, w)",
        "near (d < w) exact; far all at w, their order lost",
        "as the map underneath",
        "no",
        "a second product in border tiles; far keys unrotated",
        "Su 2023, kexue.fm 9708",
    )

    def resolve(self, context: PositionContext) -> Any:
        window = max(1, context.trained_length // 2) if self.window is None else self.window
        require(window >= 1, "rerope window", window, "must be 1 token or more")
        return dataclasses.replace(super().resolve(context), window=window)

    def branches(self, context: PositionContext) -> tuple[Branch, ...]:
        assert self.window is not None
        return near_and_far(self.window, at(self.window), at(0), context, at(-self.window))


@POSITIONS.register("leaky_rerope")
@dataclasses.dataclass(frozen=True)
class LeakyReRope(IndexMap):
    """δ = d for d < w, w + (d - w) / k beyond (Su 2023, kexue.fm 9708).

    Two conventions for k that stretches L to L': (L' - w) / (L - w), the founding document's, lets the largest distance
    reach a fraction more than L - 1; (L' - 1 - w) / (L - 1 - w), the default here, lands on L - 1, the largest trained
    distance. (L = 512, L' = 4096, w = 128: 10.33 and 10.36.) k < 1 is InvLeaky: train with it, evaluate with RoPE
    (kexue.fm 9728). k = 1 is RoPE, k = inf ReRoPE, w = 0 linear interpolation by k.
    """

    window: int | None = None  # w, tokens; none: L/4
    k: float | None = None  # none: (L' - 1 - w) / (L - 1 - w)
    plain: ClassVar[PlainAt] = {"k": 1.0}
    card: ClassVar = Card(
        "index map",
        "δ = d for d < w, else w + (d−w)/k",
        "near exact; far compressed by k, order kept",
        "as the map underneath",
        "no",
        "a second product in border tiles; two copies of keys",
        "Su 2023, kexue.fm 9708, 9728",
    )

    def resolve(self, context: PositionContext) -> Any:
        trained, target = context.trained_length, context.target_length
        window = trained // 4 if self.window is None else self.window
        require(window >= 0, "leaky_rerope window", window, "must not be negative")
        k = self._derived_k(window, trained, target) if self.k is None else self.k
        require(0 < k < math.inf, "leaky_rerope k", k, "must be above 0")
        return dataclasses.replace(super().resolve(context), window=window, k=k)

    def _derived_k(self, window: int, trained: int, target: int) -> float:
        """Return the k that compresses the distances of `target` tokens into those of `trained` tokens."""
        if target <= trained:
            return 1.0
        rule = f"leaves no distance below {trained} to compress into: lower it"
        require(window < trained - 1, "leaky_rerope window", window, rule)
        return (target - 1 - window) / (trained - 1 - window)

    def branches(self, context: PositionContext) -> tuple[Branch, ...]:
        w, k = self.window, self.k
        assert w is not None
        assert k is not None
        if w == 0:
            return (Branch(Region(), PositionMap(scale=1 / k), PositionMap(scale=1 / k)),)
        far, mirrored = (PositionMap(scale=1 / k, offset=sign * (w - w / k)) for sign in (1, -1))
        return near_and_far(w, far, PositionMap(scale=1 / k), context, mirrored)


@POSITIONS.register("self_extend")
@dataclasses.dataclass(frozen=True)
class SelfExtend(IndexMap):
    """δ = d for d < W, floor(t/G) - floor(s/G) + W - W/G beyond (Jin et al. 2024, arXiv 2401.01325, alg. 1).

    G must divide W: else the authors' own prefill and decoding disagree. δ is constant over G x G blocks and depends on
    where a text begins; only shifts by multiples of G change nothing. G = 1 is RoPE, G >= the text ReRoPE with w = W.
    """

    group: int | None = None  # G; none: the smallest divisor of W that keeps distances below L/2 at the target length
    window: int | None = None  # W, tokens; none: L/4
    plain: ClassVar[PlainAt] = {"group": 1}
    shift_invariant: ClassVar[bool] = False
    card: ClassVar = Card(
        "index map",
        "δ = d for d < W, else ⌊t/G⌋ − ⌊s/G⌋ + W − W/G",
        "near exact; far in steps of G, order lost within a group",
        "as the map underneath",
        "no",
        "a second product in border tiles; two copies of keys",
        "Jin et al. 2024, arXiv 2401.01325",
    )

    def resolve(self, context: PositionContext) -> Any:
        window = max(1, context.trained_length // 4) if self.window is None else self.window
        require(window >= 1, "self_extend window", window, "must be 1 token or more")
        group = self._derived_group(window, context) if self.group is None else self.group
        require(group >= 1, "self_extend group", group, "must be 1 or more")
        require(window % group == 0, "self_extend group", group, f"must divide window={window}")
        return dataclasses.replace(super().resolve(context), window=window, group=group)

    def _derived_group(self, window: int, context: PositionContext) -> int:
        """Return the smallest divisor of the window that keeps distances below L/2 at the target length."""
        for group in (g for g in range(1, window + 1) if window % g == 0):
            if window + (context.target_length - window) / group <= max(window + 1, context.trained_length / 2):
                return group
        return window

    def branches(self, context: PositionContext) -> tuple[Branch, ...]:
        W, G = self.window, self.group
        assert W is not None
        assert G is not None
        far, mirrored = (PositionMap(group=G, offset=sign * (W - W // G)) for sign in (1, -1))
        return near_and_far(W, far, PositionMap(group=G), context, mirrored)


@POSITIONS.register("dual_chunk")
@dataclasses.dataclass(frozen=True)
class DualChunk(IndexMap):
    """Dual chunk attention (An et al. 2024, arXiv 2402.17463): keys at s mod c, queries by how many chunks lie between.

    Same chunk: t mod c. The chunk before: min(t mod c + c, Q). Older: min(2c - 1, Q). Every d <= Q - c + 1 is exact.
    Paper: Q = L - 1, c < L, no temperature, the default here; released code: c = 5L/8, Q = 3L/4 and
    `temperature=dual_chunk`. Chunks are counted from position 0, so only shifts by multiples of c change nothing.
    """

    chunk: int | None = None  # c, tokens; none: 3L/4
    max_position: int | None = None  # Q; none: L - 1
    plain: ClassVar[PlainAt] = {"chunk": 10**6, "max_position": 10**6}
    shift_invariant: ClassVar[bool] = False
    card: ClassVar = Card(
        "index map",
        "keys s mod c; queries t mod c, min(t mod c + c, Q), min(2c−1, Q)",
        "near (d ≤ Q−c+1) exact; far somewhere in Q−c+1 … Q, not monotone",
        "as the map underneath",
        "no",
        "up to three products in border tiles; one copy of keys",
        "An et al. 2024, arXiv 2402.17463",
    )

    def resolve(self, context: PositionContext) -> Any:
        if context.mask_kind != "causal":
            raise UserError("dual_chunk has no distance for keys of a later chunk: it needs a causal layer")
        trained = context.trained_length
        chunk = max(1, 3 * trained // 4) if self.chunk is None else self.chunk
        largest = max(chunk, trained - 1) if self.max_position is None else self.max_position
        require(chunk >= 1, "dual_chunk chunk", chunk, "must be 1 token or more")
        require(largest >= chunk - 1, "dual_chunk max_position", largest, f"must be chunk - 1 = {chunk - 1} or more")
        return dataclasses.replace(super().resolve(context), chunk=chunk, max_position=largest)

    def branches(self, context: PositionContext) -> tuple[Branch, ...]:
        c, Q = self.chunk, self.max_position
        assert c is not None
        assert Q is not None

        def chunks_apart(low: int | None, high: int | None) -> Region:
            return Region(block_size=c, block_distance=(low, high))

        key = PositionMap(modulus=c)
        return (
            Branch(chunks_apart(None, 0), PositionMap(modulus=c), key),
            Branch(chunks_apart(1, 1), PositionMap(modulus=c, offset=c, ceiling=Q), key),
            Branch(chunks_apart(2, None), at(min(2 * c - 1, Q)), key),
        )
