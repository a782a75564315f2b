"""A needle in a haystack: a number that stands somewhere in a text is asked for at its end."""

import dataclasses
from typing import Any, Literal

import numpy as np

from lmarch.errors import UserError, require
from lmarch.objectives.example import Example
from lmarch.registry import describe, format_variant, label
from lmarch.tasks.material import Material
from lmarch.tasks.task import TASKS, Problem, require_length

DEPTHS = tuple(round(0.05 + 0.1 * n, 2) for n in range(10))
GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


@TASKS.register("needle")
@dataclasses.dataclass(frozen=True)
class Needle:
    """`... <A=48213> ... <A=`, to be gone on with `48213>`; built in tokens, to exactly the length that is asked for.

    The passkey of Mohtashami and Jaggi 2023 (arXiv 2305.16300), with `keys` above 1 the multi-key needles of RULER (Hsieh et
    al. 2024, 2404.06654), short enough for small models. `depth` is where in the filler the needle stands, from 0 (first) to
    1 (before the question); none: anywhere, and where it is measured ten depths in turn. Other keys stand anywhere.
    """

    keys: int = 1
    digits: int = 5
    depth: float | None = None
    filler: Literal["text", "grass"] = "text"  # a passage of one document, or the sentences of the passkey's authors

    def __post_init__(self) -> None:
        require(
            1 <= self.keys <= 26, f"task {label(self)} keys", self.keys, "must be 1 to 26: they are named by a letter"
        )
        require(1 <= self.digits <= 9, f"task {label(self)} digits", self.digits, "must be 1 to 9")
        require(
            self.depth is None or 0 <= self.depth <= 1, f"task {label(self)} depth", self.depth, "must be in [0, 1]"
        )

    @property
    def shortest(self) -> int:
        """The needles and the question without any filler."""
        return (self.keys + 1) * (self.digits + 4) - 1

    @property
    def strata(self) -> tuple[Any, ...]:
        if self.depth is not None:
            return (self,)
        return tuple(dataclasses.replace(self, depth=depth) for depth in DEPTHS)

    def check(self, material: Material, length: int) -> None:
        require_length(self, length)
        if self.filler == "text" and length > (longest := int(material.text_lengths.max())):
            raise UserError(
                f"task {format_variant(describe(self))} hides its needle in one document, and the longest "
                f"{material.split} one has {longest} tokens, not {length}: choose shorter lengths, or filler=grass"
            )

    def problem(self, length: int, material: Material, rng: np.random.Generator) -> Problem:
        encode = material.tokenizer.encode
        names = rng.permutation(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))[: self.keys]
        needles = [material.spelled(f"<{name}={self._number(material, rng)}>") for name in names]
        question = material.spelled(f"<{names[0]}=")
        answer = needles[0][len(question) :]
        room = length + 1 - sum(map(len, needles)) - len(question) - len(answer)
        assert room >= 0, (length, self)
        filler = material.passage(room, rng) if self.filler == "text" else np.resize(encode(GRASS), room)
        places = rng.integers(0, room + 1, self.keys)
        if self.depth is not None:
            places[0] = round(self.depth * room)
        parts, at, where = [], 0, 0
        for index in np.argsort(places, kind="stable"):
            parts += [filler[at : places[index]], needles[index]]
            at = places[index]
            if index == 0:
                where = sum(map(len, parts)) - len(answer)
        inputs = np.concatenate([*parts, filler[at:], question]).astype(np.int32)
        return Problem(Example(inputs, answer), distance=len(inputs) - where)

    def _number(self, material: Material, rng: np.random.Generator) -> str:
        """Of the split's own numbers, without leading zeros."""
        while True:
            number = str(rng.integers(10 ** (self.digits - 1), 10**self.digits))
            if material.owns(number):
                return number
