"""Rows of synthetic problems that take the place of some rows of text."""

import dataclasses

import numpy as np

from lmarch.objectives import Batch, Collator, Draws, Example, Examples
from lmarch.tasks import Material, Task


@dataclasses.dataclass(frozen=True, eq=False)
class ProblemRows:
    """Tasks, each with the share of rows that are made of its problems."""

    tasks: tuple[Task, ...]
    shares: tuple[float, ...]
    material: Material
    collator: Collator

    def put_into(
        self, batch: Batch[np.ndarray], byte_lengths_V: np.ndarray, seed: tuple[int, int], numbers_B: np.ndarray
    ) -> None:
        """Overwrites rows of text with problems of one task each; row b depends on (seed, numbers_B[b]) alone."""
        drawn_B = Draws.of_rows(*seed, numbers_B).fractions()
        task_B = np.searchsorted(np.cumsum(self.shares), drawn_B, side="right")
        places_P = np.flatnonzero(task_B < len(self.tasks))  # the others stay rows of text
        rows = [
            self._problems(self.tasks[task_B[place]], np.random.default_rng((*seed, int(numbers_B[place]))))
            for place in places_P
        ]
        counts_P = np.array([len(row) for row in rows], int)
        problems = self.collator.batch(Examples.of([one for row in rows for one in row]), counts_P, byte_lengths_V)
        for column, of_problems in zip(batch, problems, strict=True):
            if column is not None and of_problems is not None:
                column[places_P] = of_problems

    def _problems(self, task: Task, rng: np.random.Generator) -> list[Example]:
        """As many as fit a row."""
        length = min(self.collator.limits)
        # Of a stream the last token of a row is only a target, so that there is room for one more.
        made, left = [], length + (len(self.collator.limits) == 1)
        while left > task.shortest:
            drawn = int(rng.integers(task.shortest, length + 1))
            made.append(task.problem(min(drawn, left - 1), self.material, rng).example)
            left -= len(made[-1].inputs) + len(made[-1].targets)
        return made
