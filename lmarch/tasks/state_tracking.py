"""State tracking: where a sequence of moves leads."""

import dataclasses
import itertools
from typing import Literal

import numpy as np

from lmarch.objectives.example import Example
from lmarch.tasks.material import Material
from lmarch.tasks.task import TASKS, Alike, Problem, require_length, require_symbols


def _permutations(count: int, even: bool) -> np.ndarray:
    """Multiplication table of the permutations of `count` things, or of the even ones: [a, b] is a then b."""

    def parity(order: tuple[int, ...]) -> int:
        return sum(a > b for a, b in itertools.combinations(order, 2)) % 2

    elements = [order for order in itertools.permutations(range(count)) if not (even and parity(order))]
    index = {order: number for number, order in enumerate(elements)}
    return np.array([[index[tuple(b[i] for i in a)] for b in elements] for a in elements])


GROUPS = {
    "s3": _permutations(3, even=False),
    "a5": _permutations(5, even=True),
    "z60": np.add.outer(np.arange(60), np.arange(60)) % 60,
}


@TASKS.register("state_tracking")
@dataclasses.dataclass(frozen=True)
class StateTracking(Alike):
    """`bos x1 ... xn = y`: the product of n random elements of a group (Liu et al. 2023, arXiv 2210.10749).

    No fixed number of attention layers can do this for A5 at every length, so it is what should fail.
    """

    group: Literal["s3", "a5", "z60"] = "s3"

    @property
    def shortest(self) -> int:
        return 3

    def check(self, material: Material, length: int) -> None:
        require_length(self, length)
        require_symbols(self, len(GROUPS[self.group]) + 1, material)

    def problem(self, length: int, material: Material, rng: np.random.Generator) -> Problem:
        table = GROUPS[self.group]
        moves, state = rng.integers(0, len(table), length - 2), 0  # 0 is the identity of each table
        for move in moves:
            state = table[state, move]
        mark = material.symbols[len(table)]
        inputs = np.array([material.tokenizer.bos, *material.symbols[moves], mark], np.int32)
        return Problem(Example(inputs, material.symbols[[state]]), distance=length - 1)
