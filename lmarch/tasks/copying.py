"""Saying again what was said: forwards, backwards, and as it goes on."""

import dataclasses

import numpy as np

from lmarch.errors import UserError, require
from lmarch.objectives.example import Example
from lmarch.registry import describe, format_variant, label
from lmarch.tasks.material import Material
from lmarch.tasks.task import TASKS, Alike, Problem, require_length, require_symbols


@TASKS.register("copy")
@dataclasses.dataclass(frozen=True)
class Copy(Alike):
    """`bos s | s eos`, s being n random symbols (Jelassi et al. 2024, arXiv 2402.01032; Kazemnejad et al. 2023, 2305.19466).

    All of the answer is scored, its end included. A problem of length W copies n = (W - 2) / 2 symbols, rounded down.
    """

    alphabet: int = 26

    def __post_init__(self) -> None:
        require(self.alphabet >= 1, f"task {label(self)} alphabet", self.alphabet, "must be 1 symbol or more")

    @property
    def shortest(self) -> int:
        return 4

    def check(self, material: Material, length: int) -> None:
        require_length(self, length)
        require_symbols(self, self.alphabet + 1, material)

    def problem(self, length: int, material: Material, rng: np.random.Generator) -> Problem:
        count = (length - 2) // 2
        said = material.symbols[rng.integers(0, self.alphabet, count)]
        mark, bos, eos = material.symbols[self.alphabet], material.tokenizer.bos, material.tokenizer.eos
        return self._asked(np.array([bos, *said, mark], np.int32), said, eos)

    def _asked(self, inputs: np.ndarray, said: np.ndarray, eos: int) -> Problem:
        return Problem(Example(inputs, np.array([*said, eos], np.int32)), distance=len(said) + 1)


@TASKS.register("reverse")
@dataclasses.dataclass(frozen=True)
class Reverse(Copy):
    """`bos s | reversed(s) eos`: as `copy`, the last symbol first."""

    def _asked(self, inputs: np.ndarray, said: np.ndarray, eos: int) -> Problem:
        return Problem(Example(inputs, np.array([*said[::-1], eos], np.int32)), distance=2 * len(said))


@TASKS.register("induction")
@dataclasses.dataclass(frozen=True)
class Induction(Alike):
    """`bos r r`, r being random symbols without repeats; the second r is scored from its second token on.

    What comes next stands after the earlier token like the last one: the pattern of induction heads (Olsson et al. 2022,
    arXiv 2209.11895). A problem of length W has n = W / 2 symbols, rounded down.
    """

    alphabet: int | None = None  # none: all ids of text

    def __post_init__(self) -> None:
        require(
            self.alphabet is None or self.alphabet >= 2,
            f"task {label(self)} alphabet",
            self.alphabet,
            "must be 2 symbols or more",
        )

    @property
    def shortest(self) -> int:
        return 4

    def check(self, material: Material, length: int) -> None:
        require_length(self, length)
        require_symbols(self, self.alphabet or 2, material)
        most = self.alphabet or len(material.symbols)
        if length // 2 > most:
            raise UserError(
                f"task {format_variant(describe(self))} has no problem of {length} tokens: {most} symbols without repeats make "
                f"at most {2 * most + 1}"
            )

    def problem(self, length: int, material: Material, rng: np.random.Generator) -> Problem:
        count = length // 2
        said = rng.permutation(material.symbols[: self.alphabet or len(material.symbols)])[:count]
        inputs = np.array([material.tokenizer.bos, *said, said[0]], np.int32)
        return Problem(Example(inputs, said[1:]), distance=count)
