"""Frequency maps that reshape another one: `truncated:frequencies=linear,frequencies.factor=4`."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from lmarch.errors import require
from lmarch.positions.context import PositionContext
from lmarch.positions.frequencies import FrequencyMap, described, frequency_map
from lmarch.positions.position import POSITIONS, Card, PlainAt, Rotation
from lmarch.registry import Variant, label


@dataclasses.dataclass(frozen=True)
class Reshaped(FrequencyMap):
    """The base class: it takes the frequencies of any map for which they do not depend on the length of the text."""

    frequencies: Variant = "rope"

    def resolve(self, context: PositionContext) -> Any:
        under = frequency_map(self.frequencies, context, self)
        ok = under.rotation(context).by_length is None
        rule = "depend on the length of the text: choose others"
        require(ok, f"{label(self)} frequencies", label(under), rule)
        return dataclasses.replace(self, frequencies=described(under))

    def reshape(self, frequencies: np.ndarray, context: PositionContext) -> np.ndarray:
        """Return what becomes of the frequencies of the map underneath, float64 [I] both."""
        raise NotImplementedError

    def rotation(self, context: PositionContext) -> Rotation:
        under = frequency_map(self.frequencies, context, self).rotation(context)
        reshaped = self.reshape(np.asarray(under.inverse_frequencies), context)
        return dataclasses.replace(under, inverse_frequencies=tuple(reshaped))

    def limits(self, context: PositionContext) -> dict[str, Any]:
        return frequency_map(self.frequencies, context, self).limits(context)


@POSITIONS.register("truncated")
@dataclasses.dataclass(frozen=True)
class Truncated(Reshaped):
    """Giraffe's truncated basis (Pal et al. 2023, arXiv 2308.10882): slow frequencies become one plateau, slower ones 0.

    With f_c = 2 pi / cutoff: f if f >= f_c; f_c / 16 if f_c / 8 <= f < f_c; else 0. The boundaries are those of the
    released code; the paper zeroes f = f_c / 8 too. It is meant to be fine-tuned: every distance changes.
    """

    cutoff: int | None = None  # tokens; none: the trained length
    card: ClassVar = Card(
        "frequencies",
        "θ_i if its wavelength ≤ cutoff; 2π/(16 cutoff) up to 8 cutoff; else 0",
        "as RoPE",
        "slower than the cutoff: one constant, then 0",
        "yes",
        "none",
        "Pal et al. 2023 (Giraffe), arXiv 2308.10882",
    )

    def resolve(self, context: PositionContext) -> "Truncated":
        cutoff = context.trained_length if self.cutoff is None else self.cutoff
        require(cutoff >= 1, "truncated cutoff", cutoff, "must be 1 token or more")
        method: Truncated = super().resolve(context)
        return dataclasses.replace(method, cutoff=cutoff)

    def reshape(self, frequencies: np.ndarray, context: PositionContext) -> np.ndarray:
        assert self.cutoff is not None
        slowest_kept = 2 * math.pi / self.cutoff
        slow = np.where(frequencies >= slowest_kept / 8, slowest_kept / 16, 0.0)
        return np.where(frequencies >= slowest_kept, frequencies, slow)


@POSITIONS.register("power")
@dataclasses.dataclass(frozen=True)
class Power(Reshaped):
    """h(i) (1 - 2i/K)^exponent: slow frequencies are slowed further (Giraffe, Pal et al. 2023, arXiv 2308.10882)."""

    exponent: float = 0.1
    plain: ClassVar[PlainAt] = {"exponent": 0.0}
    card: ClassVar = Card(
        "frequencies",
        "θ_i (1 − 2i/K)^exponent",
        "as RoPE",
        "the slower, the more it is slowed",
        "yes",
        "none",
        "Pal et al. 2023 (Giraffe), arXiv 2308.10882",
    )

    def resolve(self, context: PositionContext) -> "Power":
        require(0 <= self.exponent < math.inf, "power exponent", self.exponent, "must be 0 or more")
        method: Power = super().resolve(context)
        return method

    def reshape(self, frequencies: np.ndarray, context: PositionContext) -> np.ndarray:
        return frequencies * (1 - np.arange(frequencies.size) / frequencies.size) ** self.exponent


@POSITIONS.register("resonance")
@dataclasses.dataclass(frozen=True)
class Resonance(Reshaped):
    """Wavelengths rounded to whole tokens, after any other map (Wang et al. 2024, arXiv 2403.00071, section 4)."""

    card: ClassVar = Card(
        "frequencies",
        "2π / round(2π / h(i))",
        "as the map underneath",
        "every turn takes whole tokens, so angles repeat exactly; the fastest changes most (4.7 %)",
        "yes",
        "none",
        "Wang et al. 2024, arXiv 2403.00071",
    )

    def reshape(self, frequencies: np.ndarray, context: PositionContext) -> np.ndarray:
        wavelengths = np.round(2 * math.pi / np.where(frequencies > 0, frequencies, 1.0))
        return np.where(frequencies > 0, 2 * math.pi / wavelengths, 0.0)
