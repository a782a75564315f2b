"""What a synthetic task is, and the registry of all of them."""

from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from lmarch.errors import UserError
from lmarch.objectives.example import Example
from lmarch.registry import Registry, describe, format_variant
from lmarch.tasks.material import Material


class Problem(NamedTuple):
    example: Example  # what is given, and what is to be said
    distance: int  # tokens from the farthest thing that must be looked up to where its answer is said


class Task(Protocol):
    """A frozen dataclass of parameters: a pure function from a length, material and a random generator to a problem.

    The length of a problem is the number of tokens that a decoder of one stream reads: all but the last target. Problems of
    one length have as many inputs, targets and scored targets each.
    """

    @property
    def shortest(self) -> int:
        """The least length of a problem."""
        ...

    @property
    def strata(self) -> tuple["Task", ...]:
        """Tasks to draw from in turn where the task is measured, so that each of its cases comes as often."""
        ...

    @property
    def depth(self) -> float | None:
        """Where what must be looked up stands, from 0 (first) to 1 (last); None: wherever the task puts it."""
        ...

    def check(self, material: Material, length: int) -> None:
        """UserError if no problem of this length can be made of the material; names the least or most that can be."""
        ...

    def problem(self, length: int, material: Material, rng: np.random.Generator) -> Problem:
        """A problem of at most `length` >= `shortest` tokens, and of as many as the task allows."""
        ...


class Alike:
    """A task without cases."""

    depth: ClassVar[float | None] = None

    @property
    def strata(self) -> tuple[Any, ...]:
        return (self,)


TASKS: Registry[Task] = Registry("task")


def require_length(task: Task, length: int) -> None:
    """UserError if `length` is below the task's least one."""
    if length < task.shortest:
        named = format_variant(describe(task))
        raise UserError(f"task {named} has no problem of {length} tokens: the shortest has {task.shortest}")


def require_symbols(task: Task, count: int, material: Material) -> None:
    """UserError if the tokenizer has fewer than `count` ids of text."""
    if count > len(material.symbols):
        raise UserError(
            f"task {format_variant(describe(task))} needs {count} different symbols, and tokenizer "
            f"{material.tokenizer.name!r} has {len(material.symbols)}"
        )
