"""Frequency maps that stretch the trained length L by a factor (default: target length / trained length)."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import numpy as np

from lmarch.branches import array_namespace
from lmarch.errors import UserError, require
from lmarch.positions.context import PositionContext
from lmarch.positions.frequencies import FrequencyMap, geometric, theta
from lmarch.positions.position import POSITIONS, Card, PlainAt, Rotation
from lmarch.registry import label


@dataclasses.dataclass(frozen=True)
class Stretch(FrequencyMap):
    """The base class: `factor` is target length / trained length unless it is given."""

    factor: float | None = None
    plain: ClassVar[PlainAt] = {"factor": 1.0}

    def resolve(self, context: PositionContext) -> Any:
        factor = context.stretch if self.factor is None else self.factor
        rule = "must be 1 or more: it is target length / trained length"
        require(1 <= factor < math.inf, f"{label(self)} factor", f"{factor:g}", rule)
        return dataclasses.replace(self, factor=factor)

    @property
    def stretch(self) -> float:
        """The factor of a resolved map."""
        assert self.factor is not None
        return self.factor

    def limits(self, context: PositionContext) -> dict[str, Any]:
        return {"design_length": math.floor(self.stretch * context.trained_length + 1e-6)}


@POSITIONS.register("linear")
@dataclasses.dataclass(frozen=True)
class Linear(Stretch):
    """Position interpolation: θ_i / factor, the index t as t / factor (Chen et al. 2023, arXiv 2306.15595, eq. 4)."""

    card: ClassVar = Card(
        "frequencies",
        "θ_i / factor, that is g(t) = t / factor",
        "all distances shrink, near ones too",
        "all slowed alike",
        "yes, short",
        "none",
        "Chen et al. 2023, arXiv 2306.15595",
    )

    def rotation(self, context: PositionContext) -> Rotation:
        return Rotation(tuple(theta(context) / self.stretch), index_scale=1 / self.stretch)


@POSITIONS.register("ntk")
@dataclasses.dataclass(frozen=True)
class Ntk(Stretch):
    """NTK-aware base change: base b factor^exponent, so that the first frequency stays and the last is θ / factor.

    bloc97 2023, with exponent K/(K-2). Exponent 1 is Su's "old" form and what the YaRN paper's NTK row was trained with.
    """

    exponent: float | None = None  # none: K/(K-2)
    card: ClassVar = Card(
        "frequencies",
        "(b factor^(K/(K−2)))^(−2i/K)",
        "near ones kept, far ones shrink",
        "fast kept, slowest / factor, geometric between",
        "no (better with)",
        "none",
        "bloc97 2023; Su 2023, kexue.fm 9675",
    )

    def resolve(self, context: PositionContext) -> Any:
        require_four(self, context)
        return super().resolve(context)

    def rotation(self, context: PositionContext) -> Rotation:
        exponent = context.head_dim / (context.head_dim - 2) if self.exponent is None else self.exponent
        return Rotation(tuple(geometric(context.head_dim, context.rope_base * self.stretch**exponent)))


@POSITIONS.register("ntk_fixed")
@dataclasses.dataclass(frozen=True)
class NtkFixed(Stretch):
    """θ_i λ^-(i+1) with λ = factor^(2/K): every frequency slows, the last to θ / factor (Su 2023, kexue.fm 9706)."""

    card: ClassVar = Card(
        "frequencies",
        "θ_i factor^(−2(i+1)/K)",
        "near ones hardly change, far ones shrink",
        "the first slowed a little, the last / factor",
        "no (better with)",
        "none",
        "Su 2023, kexue.fm 9706",
    )

    def rotation(self, context: PositionContext) -> Rotation:
        steps = np.arange(context.head_dim // 2) + 1
        return Rotation(tuple(theta(context) * self.stretch ** (-2 * steps / context.head_dim)))


@POSITIONS.register("ntk_mixed")
@dataclasses.dataclass(frozen=True)
class NtkMixed(Stretch):
    """θ_i exp(-a (i+1)^exponent), a = ln(factor) / (K/2)^exponent (Su 2023, kexue.fm 9706).

    Exponent 1 is `ntk_fixed`, 0 is `linear`; the blog takes 0.625, the released patch 0.75.
    """

    exponent: float = 0.625
    card: ClassVar = Card(
        "frequencies",
        "θ_i exp(−a (i+1)^0.625), a = ln factor / (K/2)^0.625",
        "near ones shrink a little, far ones more",
        "between ntk_fixed and linear",
        "no (better with)",
        "none",
        "Su 2023, kexue.fm 9706",
    )

    def resolve(self, context: PositionContext) -> Any:
        require(0 <= self.exponent < math.inf, "ntk_mixed exponent", self.exponent, "must be 0 or more")
        return super().resolve(context)

    def rotation(self, context: PositionContext) -> Rotation:
        steps = (np.arange(context.head_dim // 2) + 1) / (context.head_dim // 2)
        return Rotation(tuple(theta(context) * self.stretch ** -(steps**self.exponent)))


@dataclasses.dataclass(frozen=True)
class GrowingBase:
    """θ_i r^(-2i/(K-2)), r = max(1, factor T / L - (factor - 1)), for a text of T tokens."""

    frequencies: tuple[float, ...]
    factor: float
    trained_length: int

    def at(self, length: Any) -> Any:
        beyond = array_namespace(length).maximum(length - self.trained_length, 0)
        growth = 1 + self.factor * beyond / self.trained_length
        axes, pairs = (None,) * growth.ndim, len(self.frequencies)
        exponents = -np.arange(pairs) / (pairs - 1)
        return np.asarray(self.frequencies)[axes] * growth[..., None] ** exponents[axes]


@POSITIONS.register("dynamic_ntk")
@dataclasses.dataclass(frozen=True)
class DynamicNtk(FrequencyMap):
    """NTK-aware, stretched only as far as the text at hand is longer than L (emozilla 2023).

    Base b (factor T/L - (factor - 1))^(K/(K-2)) for a text of T > L tokens, else b. Factor 1 is the paper's
    max(1, T/L); more over-interpolates. In the form `full` the whole text is rotated for its final length, its first rows
    too; generation takes the length it may reach. In the form `stepwise` row t is rotated, with all its keys, for t + 1
    tokens: what a decoder computes that turns its whole cache at every step. Hugging Face's cache is neither.
    """

    factor: float = 1.0
    form: Literal["full", "stepwise"] = "full"
    card: ClassVar = Card(
        "frequencies",
        "NTK-aware with factor·T/L − (factor−1), T the text's length",
        "as RoPE up to L, then as ntk",
        "as RoPE up to L, then as ntk",
        "no",
        "raw keys in a cache",
        "emozilla 2023",
    )

    def resolve(self, context: PositionContext) -> "DynamicNtk":
        require_four(self, context)
        require(0 < self.factor < math.inf, "dynamic_ntk factor", self.factor, "must be above 0")
        return self

    def rotation(self, context: PositionContext) -> Rotation:
        trained = tuple(theta(context))
        growing = GrowingBase(trained, self.factor, context.trained_length)
        return Rotation(trained, by_length=growing, stepwise=self.form == "stepwise")

    def limits(self, context: PositionContext) -> dict[str, Any]:
        return {"remarks": remarks_of(self)}


@dataclasses.dataclass(frozen=True)
class Switch:
    """One set of frequencies for texts of up to `length` tokens, another beyond."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    length: int

    def at(self, length: Any) -> Any:
        xp = array_namespace(length)
        beyond = xp.asarray(length) > self.length
        axes = (None,) * beyond.ndim
        return xp.where(beyond[..., None], np.asarray(self.long)[axes], np.asarray(self.short)[axes])


@POSITIONS.register("longrope")
@dataclasses.dataclass(frozen=True)
class LongRope(Stretch):
    """θ_i / short_factor_i up to L tokens, θ_i / long_factor_i beyond (Ding et al. 2024, arXiv 2402.13753).

    For whole texts, or row by row: see `form` of `dynamic_ntk`.

    The factors are searched for per model, and none suit every model; without them it is RoPE up to L and interpolation
    beyond. Queries and keys are scaled by sqrt(1 + ln(factor) / ln L) at every length, as Hugging Face does. The first
    tokens of the paper that keep unscaled positions are in no released code that runs, and not here.
    """

    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    form: Literal["full", "stepwise"] = "full"
    plain: ClassVar[PlainAt] = {"factor": 1.0}
    card: ClassVar = Card(
        "frequencies",
        "θ_i / long_factor_i beyond L, θ_i / short_factor_i up to L; logits × (1 + ln factor / ln L)",
        "as searched",
        "as searched",
        "yes",
        "raw keys in a cache that crosses L",
        "Ding et al. 2024, arXiv 2402.13753",
    )

    def resolve(self, context: PositionContext) -> Any:
        half = context.head_dim // 2
        method: LongRope = super().resolve(context)
        short, long = self.short_factor or (1.0,) * half, self.long_factor or (method.stretch,) * half
        for name, factors in {"short_factor": short, "long_factor": long}.items():
            if len(factors) != half or not all(0 < f < math.inf for f in factors):
                raise UserError(f"longrope {name} needs {half} numbers above 0, one a channel pair, got {factors}")
        if context.trained_length < 2:
            raise UserError("longrope needs a trained length of 2 or more: its scale divides by ln L")
        return dataclasses.replace(method, short_factor=short, long_factor=long)

    def rotation(self, context: PositionContext) -> Rotation:
        short, long = (tuple(theta(context) / np.asarray(f)) for f in (self.short_factor, self.long_factor))
        scale = math.sqrt(1 + math.log(self.stretch) / math.log(context.trained_length))
        switch = Switch(short, long, context.trained_length)
        return Rotation(short, scale=scale, by_length=switch, stepwise=self.form == "stepwise")

    def limits(self, context: PositionContext) -> dict[str, Any]:
        return {**super().limits(context), "remarks": remarks_of(self)}


def remarks_of(method: Any) -> tuple[str, ...]:
    """Return the remarks on results of a method that depends on the length of the text."""
    if method.form == "stepwise":
        return ()
    return (f"{label(method)} rotates a whole text for its full length (full form)",)


def require_four(method: Any, context: PositionContext) -> None:
    """Raise a UserError unless there are two pairs of channels, whose frequencies have a ratio."""
    if context.head_dim < 4:
        raise UserError(f"{label(method)} needs 4 or more channels of a head to rotate, got {context.head_dim}")
