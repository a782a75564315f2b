"""Where a field's values are drawn from, at random or by a sampler that learns from earlier trials."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from lmarch.errors import UserError
from lmarch.registry import Registry


class Range:
    """A set of values with a way to draw from it."""

    def draw(self, rng: np.random.Generator) -> Any:
        raise NotImplementedError

    @property
    def distribution(self) -> optuna.distributions.BaseDistribution:
        """The same for Optuna."""
        raise NotImplementedError

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all when a space is checked."""
        raise NotImplementedError


RANGES: Registry[Range] = Registry("range")


def _require_interval(low: float, high: float, name: str) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{name} from {low} to {high} is empty: low must be below high")


@RANGES.register("uniform")
@dataclasses.dataclass(frozen=True)
class Uniform(Range):
    """Every number in [low, high] alike."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require_interval(self.low, self.high, "uniform")

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(self.low, self.high))

    @property
    def distribution(self) -> optuna.distributions.BaseDistribution:
        return optuna.distributions.FloatDistribution(self.low, self.high)

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


@RANGES.register("log_uniform")
@dataclasses.dataclass(frozen=True)
class LogUniform(Range):
    """Every order of magnitude in [low, high] alike; low > 0."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low <= 0:
            raise UserError(f"log_uniform from {self.low} to {self.high}: low must be above 0")
        _require_interval(self.low, self.high, "log_uniform")

    def draw(self, rng: np.random.Generator) -> float:
        # The exponential of a logarithm can end a rounding error outside.
        return min(max(math.exp(rng.uniform(math.log(self.low), math.log(self.high))), self.low), self.high)

    @property
    def distribution(self) -> optuna.distributions.BaseDistribution:
        return optuna.distributions.FloatDistribution(self.low, self.high, log=True)

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


@RANGES.register("whole")
@dataclasses.dataclass(frozen=True)
class Whole(Range):
    """low, low + step, ..., up to high at most."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        _require_interval(self.low, self.high, "whole")
        if self.step < 1 or (self.high - self.low) % self.step:
            raise UserError(f"whole from {self.low} to {self.high}: step={self.step} must divide their difference")

    def draw(self, rng: np.random.Generator) -> int:
        return self.low + self.step * int(rng.integers(0, (self.high - self.low) // self.step + 1))

    @property
    def distribution(self) -> optuna.distributions.BaseDistribution:
        return optuna.distributions.IntDistribution(self.low, self.high, step=self.step)

    @property
    def ends(self) -> tuple[int, int]:
        return self.low, self.high


@RANGES.register("choice")
@dataclasses.dataclass(frozen=True)
class Choice(Range):
    """One of some values."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError("a choice of no values: give some")

    def draw(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    @property
    def distribution(self) -> optuna.distributions.BaseDistribution:
        return optuna.distributions.CategoricalDistribution(self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values


def to_json(one: Range) -> Mapping[str, Any]:
    return {"name": type(one).name, **dataclasses.asdict(one)}  # type: ignore[attr-defined, call-overload]
