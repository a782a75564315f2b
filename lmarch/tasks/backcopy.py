"""A language in which heads often have nothing to do, so that they learn an attention sink."""

import dataclasses
import functools

import numpy as np

from lmarch.errors import require
from lmarch.objectives.example import Example
from lmarch.registry import label
from lmarch.tasks.material import Material
from lmarch.tasks.task import TASKS, Alike, Problem, require_length, require_symbols


@TASKS.register("backcopy")
@dataclasses.dataclass(frozen=True)
class Backcopy(Alike):
    """`bos x1 x2 ...`: a Markov chain, but after a trigger comes what stood before it (Guo et al. 2024, arXiv 2410.13835).

    A head that copies is needed after triggers only; after all other symbols it should add nothing, and learns to attend to
    `bos` then. Every symbol is scored. The chain's transitions are fixed by `chain`, and the same in training and
    measuring: the language is what is learned.
    """

    alphabet: int = 32
    triggers: int = 6  # the first so many symbols
    concentration: float = 0.3  # of the Dirichlet distribution that transitions are drawn from: the lower, the surer
    chain: int = 0

    def __post_init__(self) -> None:
        require(self.alphabet >= 4, f"task {label(self)} alphabet", self.alphabet, "must be 4 symbols or more")
        require(
            1 <= self.triggers < self.alphabet,
            f"task {label(self)} triggers",
            self.triggers,
            "must be 1 or more, and fewer than symbols",
        )

    @property
    def shortest(self) -> int:
        return 4

    @functools.cached_property
    def _cumulative(self) -> np.ndarray:
        """[A, A], of the next symbol after each."""
        rng = np.random.default_rng(self.chain)
        return np.cumsum(rng.dirichlet(np.full(self.alphabet, self.concentration), self.alphabet), axis=1)

    def check(self, material: Material, length: int) -> None:
        require_length(self, length)
        require_symbols(self, self.alphabet, material)

    def problem(self, length: int, material: Material, rng: np.random.Generator) -> Problem:
        said = [int(rng.integers(self.triggers, self.alphabet))]
        for draw in rng.random(length - 1):
            last = said[-1]
            if last < self.triggers and len(said) > 1:
                said.append(said[-2])
            else:
                said.append(min(int(np.searchsorted(self._cumulative[last], draw)), self.alphabet - 1))
        tokens = material.symbols[said]
        return Problem(Example(np.array([material.tokenizer.bos, tokens[0]], np.int32), tokens[1:]), distance=2)
