"""An evaluation under way: what its parts share, and how they measure."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lmarch.config import Config
from lmarch.evaluation.axes import AXES
from lmarch.evaluation.items import Items
from lmarch.evaluation.manifest import Manifest
from lmarch.evaluation.measuring import Measured, measure
from lmarch.evaluation.scoring import OutOfMemory
from lmarch.loading import Model


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

    def measure(self, part: str, cells: Sequence[tuple[Model, str | None, Items]]) -> list[Measured | None]:
        """Every cell (model, axis, items), with progress; None: there was not enough memory, which is kept in `lost`."""
        columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows, ETA"))
        console, total, done = self.console, sum(len(items.rows_NT) for *_, items in cells), 0
        measured: list[Measured | None] = []
        with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=total)
            for model, axis, items in cells:
                name = f"{part}: {model.method} at {items.length}" + (f", {AXES[axis].title}" if axis else "")
                progress.update(bar, description=name)
                advance = functools.partial(_advance, progress, bar, done)
                done += len(items.rows_NT)
                try:
                    measured.append(one := measure(model, items, self.folder, advance, axis))
                except OutOfMemory as error:
                    measured.append(None)
                    self.lose(part, model, axis, items.length, error)
                    continue
                if progress.disable:
                    console.print(f"  {name}: {one.scores.tokens_per_second:,.0f} tokens/s")
        return measured

    def lose(self, part: str, model: Model, axis: str | None, length: int, error: Exception) -> None:
        """Notes what did not fit the memory as a row, and says so."""
        self.lost.append(_lost(part, model, axis, length))
        self.console.print(f"  {part}: {model.method} at {length}: out of memory ({str(error).splitlines()[0]})")


def _advance(progress: Progress, bar: TaskID, start: int, count: int) -> None:
    progress.update(bar, completed=start + count)


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
    }
