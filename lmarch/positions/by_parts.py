"""Frequency maps that treat fast and slow channel pairs differently: kept, interpolated, or mixed in between.

r_i = L θ_i / 2 pi is how often pair i turns within the trained length L: one that turned many times has seen every
angle and can be kept, one that never finished a turn must be interpolated to meet no new angle.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from lmarch.errors import require
from lmarch.positions.context import PositionContext
from lmarch.positions.frequencies import geometric, theta
from lmarch.positions.position import POSITIONS, Card, Rotation
from lmarch.positions.stretches import Stretch, require_four


def mixed_by_turns(context: PositionContext, factor: float, fewest: float, most: float) -> np.ndarray:
    """Return θ / factor for pairs of up to `fewest` turns, θ from `most` on, linear in the number of turns between."""
    frequencies = theta(context)
    turns = context.trained_length * frequencies / (2 * math.pi)
    kept = np.clip((turns - fewest) / (most - fewest), 0, 1)
    return (1 - kept) * frequencies / factor + kept * frequencies


def pair_of_turns(turns: float, context: PositionContext) -> float:
    """Return the (fractional) index i of the pair that turns `turns` times within the trained length."""
    ratio = context.trained_length / (turns * 2 * math.pi)
    return context.head_dim * math.log(ratio) / (2 * math.log(context.rope_base))


def ramp(low: float, high: float, pairs: int) -> np.ndarray:
    """Return float64 [pairs]: 0 up to pair `low`, 1 from pair `high` on, linear in the index between."""
    high = high + 0.001 if low == high else high
    return np.clip((np.arange(pairs) - low) / (high - low), 0, 1)


def ramp_between(most: float, fewest: float, context: PositionContext, truncate: bool = True) -> np.ndarray:
    """Return the ramp of the released YaRN code, from the pair of `most` turns to that of `fewest`.

    Its ends are clamped to [0, K - 1], not to K/2 - 1, as in the code that every published number comes from.
    """
    low, high = pair_of_turns(most, context), pair_of_turns(fewest, context)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return ramp(max(low, 0), min(high, context.head_dim - 1), context.head_dim // 2)


@POSITIONS.register("ntk_by_parts")
@dataclasses.dataclass(frozen=True)
class NtkByParts(Stretch):
    """(1 - g) θ / factor + g θ, g = clip((r - alpha) / (beta - alpha), 0, 1) (YaRN paper, arXiv 2309.00071, def. 2)."""

    alpha: float = 1.0
    beta: float = 32.0
    card: ClassVar = Card(
        "frequencies",
        "(1−γ) θ_i/factor + γ θ_i, γ = clip((r_i−α)/(β−α), 0, 1), r_i = L θ_i/2π",
        "near ones kept, far ones shrink",
        "r > β kept, r < α / factor, linear in r between",
        "no (better with)",
        "none",
        "Peng et al. 2023, arXiv 2309.00071, def. 2",
    )

    def resolve(self, context: PositionContext) -> Any:
        ok = 0 <= self.alpha < self.beta < math.inf
        require(ok, "ntk_by_parts alpha", self.alpha, f"must be in [0, beta={self.beta:g})")
        return super().resolve(context)

    def rotation(self, context: PositionContext) -> Rotation:
        return Rotation(tuple(mixed_by_turns(context, self.stretch, self.alpha, self.beta)))


@POSITIONS.register("ntk_by_parts_released")
@dataclasses.dataclass(frozen=True)
class NtkByPartsReleased(Stretch):
    """The class of that name in the YaRN repository, older than YaRN and another function than the paper's.

    Linear below 0.75 turns, NTK-aware between 1.25 and 2, unchanged above 16, with ramps in the pair's index between.
    """

    card: ClassVar = Card(
        "frequencies",
        "θ_i/factor → NTK-aware (r 0.75 … 1.25) → θ_i (r 2 … 16), ramps linear in i",
        "near ones kept, far ones shrink",
        "three parts instead of two",
        "no (better with)",
        "none",
        "the YaRN repository, before YaRN",
    )

    def resolve(self, context: PositionContext) -> Any:
        require_four(self, context)
        return super().resolve(context)

    def rotation(self, context: PositionContext) -> Rotation:
        frequencies, K = theta(context), context.head_dim
        aware = geometric(K, context.rope_base * self.stretch ** (K / (K - 2)))
        linear = ramp_between(1.25, 0.75, context)
        slow = frequencies / self.stretch * linear + aware * (1 - linear)
        stretched = ramp_between(16, 2, context)
        return Rotation(tuple(slow * stretched + frequencies * (1 - stretched)))


@POSITIONS.register("llama3")
@dataclasses.dataclass(frozen=True)
class Llama3(Stretch):
    """Llama 3.1's scaling: θ / factor for wavelengths above L / low, θ below L / high, mixed in between.

    It is the YaRN paper's by-parts with alpha = low_freq_factor and beta = high_freq_factor, without a temperature.
    """

    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    card: ClassVar = Card(
        "frequencies",
        "ntk_by_parts with α = 1, β = 4",
        "near ones kept, far ones shrink",
        "wavelength < L/4 kept, > L / factor",
        "yes, short",
        "none",
        "Llama 3.1",
    )

    def resolve(self, context: PositionContext) -> Any:
        low, high = self.low_freq_factor, self.high_freq_factor
        ok = 0 <= low < high < math.inf
        require(ok, "llama3 low_freq_factor", low, f"must be in [0, high_freq_factor={high:g})")
        return super().resolve(context)

    def rotation(self, context: PositionContext) -> Rotation:
        return Rotation(tuple(mixed_by_turns(context, self.stretch, self.low_freq_factor, self.high_freq_factor)))


@POSITIONS.register("yarn")
@dataclasses.dataclass(frozen=True)
class Yarn(Stretch):
    """By parts, with a temperature (Peng et al. 2023, arXiv 2309.00071): logits times (0.1 ln factor + 1)^2.

    The ramp is the released code's, linear in the index of the pair between those of beta_fast and beta_slow turns
    (rounded outwards unless `truncate` is false, as gpt-oss has it); every number in the paper comes from it. The
    paper's own ramp, linear in the turns, is `ntk_by_parts`, up to 3 times different in between. `attention_factor`
    multiplies queries and keys each; 1 leaves the temperature out. DeepSeek's pair `mscale`, `mscale_all_dim` gives
    (0.1 mscale ln factor + 1) / (0.1 mscale_all_dim ln factor + 1).
    """

    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None  # none: 0.1 ln(factor) + 1
    mscale: float | None = None
    mscale_all_dim: float | None = None
    card: ClassVar = Card(
        "frequencies",
        "θ_i/factor · ramp(i) + θ_i (1 − ramp(i)); logits × (0.1 ln factor + 1)²",
        "near ones kept, far ones shrink; attention sharpened",
        "more than 32 turns within L kept, less than 1 / factor, linear in i between",
        "no (better with)",
        "none",
        "Peng et al. 2023, arXiv 2309.00071, and its code",
    )

    def resolve(self, context: PositionContext) -> Any:
        fast, slow = self.beta_fast, self.beta_slow
        require(0 < slow < fast < math.inf, "yarn beta_slow", slow, f"must be in (0, beta_fast={fast:g})")
        factor = self.attention_factor
        require(factor is None or 0 < factor < math.inf, "yarn attention_factor", factor, "must be above 0")
        scales = [scale for scale in (self.mscale, self.mscale_all_dim) if scale is not None]
        rule = f"and mscale_all_dim={self.mscale_all_dim} go together: give both"
        require(len(scales) in (0, 2), "yarn mscale", self.mscale, rule)
        require(all(scale > 0 for scale in scales), "yarn mscale", self.mscale, "and mscale_all_dim must be above 0")
        rule = "and mscale both set the temperature: give one"
        require(not scales or factor is None, "yarn attention_factor", factor, rule)
        return super().resolve(context)

    def rotation(self, context: PositionContext) -> Rotation:
        frequencies = theta(context)
        interpolated = ramp_between(self.beta_fast, self.beta_slow, context, self.truncate)
        mixed = frequencies / self.stretch * interpolated + frequencies * (1 - interpolated)
        return Rotation(tuple(mixed), scale=self._scale())

    def _scale(self) -> float:
        """Return what queries and keys are multiplied by, each."""

        def scale(mscale: float) -> float:
            return 0.1 * mscale * math.log(self.stretch) + 1

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return scale(self.mscale) / scale(self.mscale_all_dim)
        return scale(1.0)
