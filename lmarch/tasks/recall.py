"""Associative recall: values by their keys."""

import dataclasses

import numpy as np

from lmarch.errors import require
from lmarch.objectives.example import Example
from lmarch.registry import label
from lmarch.tasks.material import Material
from lmarch.tasks.task import TASKS, Alike, Problem, require_length, require_symbols


@TASKS.register("mqar")
@dataclasses.dataclass(frozen=True)
class Mqar(Alike):
    """Multi-query associative recall (Arora et al. 2024, Zoology, arXiv 2312.04927).

    `bos k1 v1 ... kn vn`, then slots of two tokens: each key comes once more, followed by its value, which is scored; what is
    left are random values, unscored. Slots are drawn by a power law, p ~ gap^(power - 1), gap counting from 1. Keys and
    values are different symbols; the keys of a problem are different.
    """

    pairs: int | None = None  # none: one for every 16 tokens
    keys: int = 64
    values: int = 64
    power: float = 0.01

    def __post_init__(self) -> None:
        require(self.pairs is None or self.pairs >= 1, f"task {label(self)} pairs", self.pairs, "must be 1 or more")
        require(
            self.keys >= (self.pairs or 1), f"task {label(self)} keys", self.keys, "must be as many as pairs, or more"
        )
        require(self.values >= 2, f"task {label(self)} values", self.values, "must be 2 or more")

    @property
    def shortest(self) -> int:
        return 4 * (self.pairs or 1)

    def check(self, material: Material, length: int) -> None:
        require_length(self, length)
        require_symbols(self, self.keys + self.values, material)
        require(
            self._pairs(length) <= self.keys,
            f"task {label(self)} keys",
            self.keys,
            f"are too few for {self._pairs(length)} pairs",
        )

    def problem(self, length: int, material: Material, rng: np.random.Generator) -> Problem:
        pairs, slots = self._pairs(length), length // 2 - self._pairs(length)
        keys = rng.permutation(material.symbols[: self.keys])[:pairs]
        values_of = material.symbols[self.keys : self.keys + self.values]
        values = rng.choice(values_of, pairs)
        weights = np.arange(1, slots + 1) ** (self.power - 1)
        places = rng.choice(slots, pairs, replace=False, p=weights / weights.sum())
        rest_S2 = rng.choice(values_of, (slots, 2))
        rest_S2[places] = np.stack([keys, values], axis=1)
        scored_S2 = np.zeros((slots, 2), bool)
        scored_S2[places, 1] = True
        inputs = np.array([material.tokenizer.bos, *np.stack([keys, values], axis=1).ravel()], np.int32)
        # Key j stands at 1 + 2 j, and is asked for at 1 + 2 (pairs + its place).
        distance = 2 * int(np.max(pairs + places - np.arange(pairs)))
        return Problem(Example(inputs, rest_S2.ravel(), scored=scored_S2.ravel()), distance)

    def _pairs(self, length: int) -> int:
        return self.pairs or max(1, length // 16)
