"""Frequency maps h(i): how fast channel pair i turns, in radians per position.

They are computed in float64 from their parameters; i = 0 .. K/2 - 1, K the head size, b the base, theta_i = b^(-2i/K), L the
trained length, the wavelength of pair i 2 pi / h(i) tokens. Half-split layout: pair i is channels (i, i + I).
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from lmarch.errors import UserError, require
from lmarch.positions.context import PositionContext
from lmarch.positions.position import POSITIONS, Card, PlainAt, Position, Rotation
from lmarch.registry import Variant, describe, label


def geometric(head_dim: int, base: float) -> np.ndarray:
    """Return theta_i = base^(-2i/K), float64 [K/2]."""
    return float(base) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def theta(context: PositionContext) -> np.ndarray:
    """Return plain RoPE's frequencies, float64 [K/2]."""
    return geometric(context.head_dim, context.rope_base)


@dataclasses.dataclass(frozen=True)
class FrequencyMap:
    """The base class: a rotation that holds for every pair. Index maps take any of them as `frequencies`."""

    card: ClassVar[Card]
    plain: ClassVar[PlainAt] = None
    shift_invariant: ClassVar[bool] = True

    def resolve(self, context: PositionContext) -> Any:
        return self

    def rotation(self, context: PositionContext) -> Rotation:
        """Return the rotation of the first 2 I channels of a head."""
        raise NotImplementedError

    def limits(self, context: PositionContext) -> dict[str, Any]:
        """Return the fields of Position that say where the map may be used."""
        return {}

    def position(self, context: PositionContext) -> Position:
        require_even(self, context)
        return Position(rotation=self.rotation(context), **self.limits(context))


def frequency_map(variant: Variant, context: PositionContext, above: Any) -> FrequencyMap:
    """Return the resolved map of `variant`, the field `frequencies` of the method `above`."""
    method = POSITIONS.build(variant)
    if not isinstance(method, FrequencyMap):
        raise UserError(f"{label(above)} frequencies={label(method)} must be a frequency map, like rope")
    require_even(method, context)
    resolved: FrequencyMap = method.resolve(context)
    return resolved


def described(method: FrequencyMap) -> Variant:
    """Return the variant of a resolved map; of plain RoPE, the default of `frequencies`, the name alone."""
    variant = describe(method)
    return "rope" if variant == {"name": "rope"} else variant


def require_even(method: Any, context: PositionContext) -> None:
    """Raise a UserError unless the channels of a head make pairs."""
    if context.head_dim % 2:
        raise UserError(f"{label(method)} rotates channel pairs, but the head size is {context.head_dim}: make it even")


@POSITIONS.register("rope")
@dataclasses.dataclass(frozen=True)
class Rope(FrequencyMap):
    """h(i) = θ_i = b^(-2i/K) (Su et al. 2021, arXiv 2104.09864, eq. 15)."""

    plain: ClassVar[PlainAt] = {}
    card: ClassVar = Card(
        "frequencies",
        "θ_i = b^(−2i/K)",
        "as they are",
        "slow ones meet angles beyond L that training never saw",
        "no",
        "none",
        "Su et al. 2021, arXiv 2104.09864",
    )

    def rotation(self, context: PositionContext) -> Rotation:
        return Rotation(tuple(theta(context)))


@POSITIONS.register("partial")
@dataclasses.dataclass(frozen=True)
class Partial(FrequencyMap):
    """The first rd = floor(fraction K) channels, made even, turn with b^(-2i/rd); the rest carry no position.

    GPT-NeoX (0.25), GPT-J, Phi: the whole range of frequencies, fewer of them. Compare `p_rope`. With other `frequencies`,
    these are what they would be for a head of rd channels, as Hugging Face has it for `partial_rotary_factor`; where a map
    scales logits (YaRN), it scales those channels.
    """

    fraction: float = 0.25
    frequencies: Variant = "rope"
    plain: ClassVar[PlainAt] = {"fraction": 1.0}
    card: ClassVar = Card(
        "frequencies",
        "b^(−2i/rd) on the first rd = fraction·K channels",
        "as RoPE",
        "the same range, fewer of them; the other channels carry no position",
        "train with it",
        "less than RoPE",
        "Black et al. 2022 (GPT-NeoX), arXiv 2204.06745",
    )

    def resolve(self, context: PositionContext) -> "Partial":
        require(0 < self.fraction <= 1, "partial fraction", self.fraction, "must be above 0 and at most 1")
        rule = f"leaves no pair of {context.head_dim} channels to rotate: raise it"
        require(self._rotated(context).head_dim >= 2, "partial fraction", self.fraction, rule)
        return dataclasses.replace(self, frequencies=described(self._under(context)))

    def rotation(self, context: PositionContext) -> Rotation:
        return self._under(context).rotation(self._rotated(context))

    def limits(self, context: PositionContext) -> dict[str, Any]:
        return self._under(context).limits(self._rotated(context))

    def _rotated(self, context: PositionContext) -> PositionContext:
        """Return the context of a head that has the rotated channels only."""
        return dataclasses.replace(context, head_dim=int(self.fraction * context.head_dim) // 2 * 2)

    def _under(self, context: PositionContext) -> FrequencyMap:
        return frequency_map(self.frequencies, self._rotated(context), self)


@POSITIONS.register("p_rope")
@dataclasses.dataclass(frozen=True)
class PRope(FrequencyMap):
    """θ_i / factor for i < floor(fraction K / 2), 0 for the slower rest (Barbero et al. 2024, arXiv 2410.06205).

    Hugging Face calls it `proportional` (Gemma 4).
    """

    fraction: float = 0.75
    factor: float = 1.0
    plain: ClassVar[PlainAt] = {"fraction": 1.0}
    card: ClassVar = Card(
        "frequencies",
        "θ_i for i < fraction·K/2, else 0",
        "as RoPE",
        "fast ones kept, the slowest carry no position",
        "train with it",
        "none",
        "Barbero et al. 2024, arXiv 2410.06205",
    )

    def resolve(self, context: PositionContext) -> "PRope":
        require(0 < self.fraction <= 1, "p_rope fraction", self.fraction, "must be above 0 and at most 1")
        require(1 <= self.factor < math.inf, "p_rope factor", self.factor, "must be 1 or more")
        return self

    def rotation(self, context: PositionContext) -> Rotation:
        kept = np.arange(context.head_dim // 2) < int(self.fraction * context.head_dim // 2)
        return Rotation(tuple(np.where(kept, theta(context) / self.factor, 0.0)), index_scale=1 / self.factor)


@POSITIONS.register("xpos")
@dataclasses.dataclass(frozen=True)
class XPos(FrequencyMap):
    """RoPE whose logit term i is multiplied by ζ_i^(distance / scale_base) (Sun et al. 2022, arXiv 2212.10554).

    ζ_i = (2i/K + gamma) / (1 + gamma). The paper writes ζ^distance; every implementation divides by scale_base = 512,
    and so does this one. Queries carry ζ^+p and keys ζ^-p, so a key after its query would grow without bound: causal
    layers only. Its published length results come with blockwise causal attention at test time.
    """

    gamma: float = 0.4
    scale_base: float = 512.0
    card: ClassVar = Card(
        "frequencies",
        "θ_i, logit term i × ζ_i^(d/512), ζ_i = (2i/K + 0.4)/1.4",
        "far ones fade",
        "fast ones fade first",
        "train with it",
        "none",
        "Sun et al. 2022, arXiv 2212.10554",
    )

    def resolve(self, context: PositionContext) -> "XPos":
        require(0 < self.gamma < math.inf, "xpos gamma", self.gamma, "must be above 0")
        require(0 < self.scale_base < math.inf, "xpos scale_base", self.scale_base, "must be above 0")
        if context.mask_kind != "causal":
            raise UserError("xpos grows without bound for a key after its query: it needs a causal layer")
        return self

    def _log_decay(self, context: PositionContext) -> np.ndarray:
        half = context.head_dim // 2
        zeta = (np.arange(half) / half + self.gamma) / (1 + self.gamma)
        return np.log(zeta) / self.scale_base

    def rotation(self, context: PositionContext) -> Rotation:
        return Rotation(tuple(theta(context)), log_decay=tuple(self._log_decay(context)))

    def limits(self, context: PositionContext) -> dict[str, Any]:
        # Centred on the text, a key carries up to half its length times the strongest decay: below ln(3e38) = 88.
        return {"longest": math.floor(2 * 80 / -self._log_decay(context).min())}
