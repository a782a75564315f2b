"""An evaluation under way: what its parts share, and how they measure."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lmarch.config import Config
from lmarch.evaluation.axes import AXES
from lmarch.evaluation.items import Items
from lmarch.evaluation.manifest import Manifest
from lmarch.evaluation.measuring import Measured, found, measure
from lmarch.evaluation.progress import Bar
from lmarch.evaluation.scoring import OutOfMemory, compiled, program_for
from lmarch.loading import Model
from lmarch.registry import for_people

COMPILERS = 8  # threads at most: each compiler takes memory of its own


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything a suite measures."""

    windows: int  # of text, spread over the documents
    long_windows: int  # of the longest length, every token of which is scored
    problems: int  # of a task, at each length


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """What is measured, on which text, and where it is kept."""

    model: Model
    methods: Sequence[Model]  # the same weights under every method that is measured
    lengths: Sequence[int]  # ascending
    axes: Sequence[str | None]  # sides the context grows along; None stands for a causal decoder's only one
    config: Config  # the model's, with what this evaluation changes: `eval`, and the text
    size: Size
    manifest: Manifest
    tokens: Sequence[np.ndarray]  # of every document of the split
    folder: Path  # of score files
    console: Console
    lost: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # rows of what ran out of memory

    @property
    def trained_length(self) -> int:
        return self.model.config.model.trained_length

    @property
    def byte_lengths(self) -> np.ndarray:
        return self.model.tokenizer.byte_lengths

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """How each method is shown while it is measured."""
        return for_people(model.method for model in (self.model, *self.methods))

    @property
    def as_trained(self) -> Model:
        """The model under the method that it was trained with: the one among the methods, if there is one."""
        return next((method for method in self.methods if method.method == self.model.method), self.model)

    def measure(self, part: str, cells: Sequence[tuple[Model, str | None, Items]]) -> list[Measured | None]:
        """Every cell (model, axis, items), with progress; None: there was not enough memory, which is kept in `lost`."""
        measured: list[Measured | None] = []
        rows = np.cumsum([0, *(len(items.rows_NT) for *_, items in cells)]).tolist()
        self._compile(part, cells)
        with Bar(self.console, "rows", rows[-1]) as bar:
            for (model, axis, items), done in zip(cells, rows, strict=False):
                along = f", {AXES[axis].title}" if axis else ""
                name = f"{part}: {self.names[model.method]} at {items.length}{along}"
                bar.begin(name, done)
                try:
                    one = measure(model, items, self.folder, bar.reach, axis)
                except OutOfMemory as error:
                    measured.append(None)
                    self.lose(part, model, axis, items.length, error)
                    continue
                measured.append(one)
                speed = f"{one.scores.tokens_per_second:,.0f} tokens/s"
                bar.line(f"{len(measured):>3}/{len(cells)} {name}: {speed}", last=len(measured) == len(cells))
        anew = sum(one is not None and one.outdated for one in measured)
        if anew:
            self.console.print(
                f"  {part}: {anew} of {len(cells)} scores were there by other code, and are measured anew"
            )
        return measured

    def _compile(self, part: str, cells: Sequence[tuple[Model, str | None, Items]]) -> None:
        """Compiles what the cells will run, on all cores at once and before anything is timed.

        What fails here fails again where it is run, and is told there.
        """
        unmeasured = [(model, axis, items) for model, axis, items in cells if self._missing(model, axis, items)]
        programs = list(dict.fromkeys(program_for(model, items) for model, _, items in unmeasured))
        if not programs:
            return
        pool = ThreadPoolExecutor(min(COMPILERS, os.cpu_count() or 1))
        try:
            with Bar(self.console, "programs", len(programs)) as bar:
                bar.begin(f"{part}: compiling")
                pending = [pool.submit(compiled, program) for program in programs]
                for count, _ in enumerate(as_completed(pending), 1):
                    bar.reach(count)
                    bar.line(f"{part}: {count} of {len(programs)} programs compiled")
        finally:
            pool.shutdown(cancel_futures=True)

    def _missing(self, model: Model, axis: str | None, items: Items) -> bool:
        before = found(model, items, self.folder, axis)
        return before is None or before.outdated

    def lose(self, part: str, model: Model, axis: str | None, length: int, error: Exception) -> None:
        """Notes what did not fit the memory as a row, and says so."""
        self.lost.append(_lost(part, model, axis, length))
        self.console.print(
            f"  {part}: {self.names[model.method]} at {length}: out of memory ({str(error).splitlines()[0]})"
        )


def _lost(part: str, model: Model, axis: str | None, length: int) -> dict[str, Any]:
    """A row that says what could not be measured."""
    return {
        "task": "out_of_memory",
        "part": part,
        "status": "oom",
        "metric": None,
        "method": model.method,
        "label": model.definition.label,
        "trained_length": model.config.model.trained_length,
        "axis": axis,
        "length": length,
        "value": None,
        "n_nonfinite": 0,
    }


def identity(one: Measured) -> dict[str, Any]:
    """What identifies a measurement in a result row, whatever was measured."""
    definition = one.model.definition
    return {
        "status": "ok",
        "method": one.method,
        "label": definition.label,
        "trained_length": one.model.config.model.trained_length,
        "axis": one.axis,
        "length": one.length,
        "given": one.items.given,
        "n_nonfinite": int((~np.isfinite(one.scores.nll_NS) & one.items.scored_NS).sum()),
        "implementation": one.implementation,
        "tokens_per_second": one.scores.tokens_per_second,
        "out_of_design": one.out_of_design,
        **one.origin,
    }
