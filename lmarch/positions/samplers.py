"""Position samplers: positions of a training text drawn from a longer range than it has tokens.

A model so trained has met distances beyond its rows. They apply to any position method, and to each document of a row.
"""

import dataclasses
from typing import ClassVar, Protocol

import numpy as np

from lmarch.errors import UserError, require
from lmarch.registry import Registry, label


class PositionSampler(Protocol):
    """A frozen dataclass of parameters."""

    at_evaluation: ClassVar[bool]  # whether the model is evaluated at sampled positions too

    def reach(self) -> int:
        """Return the number of positions that are drawn from, 0, 1, ...; texts of more tokens are refused."""
        ...

    def sample(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Return increasing positions of the tokens of a text, int32 [length]."""
        ...


SAMPLERS: Registry[PositionSampler] = Registry("position sampler")


@SAMPLERS.register("randomized")
@dataclasses.dataclass(frozen=True)
class Randomized:
    """T of the positions 0 .. maximum-1, drawn without replacement and sorted (Ruoss et al. 2023, arXiv 2305.16843).

    In training and in evaluation.
    """

    maximum: int = 2048
    at_evaluation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.maximum >= 1, "randomized maximum", self.maximum, "must be 1 or more")

    def reach(self) -> int:
        return self.maximum

    def sample(self, length: int, rng: np.random.Generator) -> np.ndarray:
        _require_room(self, length, self.maximum)
        return np.sort(rng.choice(self.maximum, length, replace=False)).astype(np.int32)


@SAMPLERS.register("pose")
@dataclasses.dataclass(frozen=True)
class Pose:
    """Two chunks, the second moved on by up to target_length - T positions (Zhu et al. 2024, arXiv 2309.10400).

    As released: the first chunk, of 1 .. ceil(T/2) tokens, starts at 0 (in the paper it is moved too). The released code
    also skips text between the chunks; here positions skip and the text goes on. In training only.
    """

    target_length: int = 2048
    at_evaluation: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.target_length >= 1, "pose target_length", self.target_length, "must be 1 or more")

    def reach(self) -> int:
        return self.target_length

    def sample(self, length: int, rng: np.random.Generator) -> np.ndarray:
        _require_room(self, length, self.target_length)
        first = rng.integers(1, -(-length // 2) + 1)
        skip = rng.integers(0, self.target_length - length + 1)
        positions = np.arange(length, dtype=np.int32)
        return positions + np.where(positions < first, 0, skip).astype(np.int32)


def _require_room(sampler: PositionSampler, length: int, reach: int) -> None:
    """Raise a UserError if a text has more tokens than there are positions."""
    if length > reach:
        raise UserError(f"{label(sampler)} draws from {reach} positions: too few for {length} tokens")
