"""Runs that begin where another one is: with its weights (`train.start_from`), or as its branch (`train.branch_from`)."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lmarch.config import Config, from_dict
from lmarch.durable import parsed_lines, write_text
from lmarch.errors import UserError
from lmarch.training.checkpoints import find_step, read_parameters, read_state, saved_fingerprint
from lmarch.training.history import OF_LATER_STEPS, require_same_history
from lmarch.training.step import Program, State
from lmarch.training.workdir import ancestors, read_config

BRANCH = f"a branch may differ from its parent in how it goes on, which is train.{', '.join(OF_LATER_STEPS)}"


@dataclasses.dataclass(frozen=True)
class Parent:
    """A run to start or branch from, and where in it."""

    folder: Path
    step: int | None  # none: its latest checkpoint

    @classmethod
    def named(cls, text: str, config: Config) -> "Parent":
        """From `RUN` or `RUN@STEP`, as fields of the config name it; relative names begin at its `data.folder`."""
        folder, at, step = text.rpartition("@")
        whole = (folder, int(step)) if at and step.isdigit() else (text, None)
        return cls(Path(config.data.folder or "", Path(whole[0]).expanduser()), whole[1])

    def at(self, fingerprint: str | None) -> "Parent":
        """The step that `FINGERPRINT@STEP` says, if it says one."""
        return self if fingerprint is None else Parent(self.folder, int(fingerprint.rpartition("@")[2]))

    @property
    def fingerprint(self) -> str:
        """`FINGERPRINT@STEP`: what it is, wherever it lies and however much longer it was trained."""
        step = find_step(self.folder, self.step)
        return f"{saved_fingerprint(self.folder, step)}@{step}"


def with_parent(config: Config, workdir: Path | None = None) -> Config:
    """The config with what the run is that it starts from: as noted when this run began, else as it is now.

    Args:
      workdir: of the run; none: it has not begun.

    Raises:
      UserError: the run to start or branch from is not there, or cannot be this one's parent.
    """
    given, begun = config.train.start_from, workdir is not None and (workdir / "config.json").exists()
    if workdir is not None and begun:
        before = read_config(workdir).train
        return _with_start(config, before.start_fingerprint) if before.start_from == given else config
    if config.train.branch_from is not None:
        parent = Parent.named(config.train.branch_from, config)
        of_parent = read_config(parent.folder)
        if given is not None and of_parent.train.start_from == given:  # the same base, as it was then
            config = _with_start(config, of_parent.train.start_fingerprint)
        require_same_history(of_parent, config, find_step(parent.folder, parent.step), parent.folder, BRANCH)
        return config
    if given is None:
        return config
    which = Parent.named(given, config).at(config.train.start_fingerprint).fingerprint
    if config.train.start_fingerprint not in (None, which):
        raise UserError(
            f"config.train.start_fingerprint={config.train.start_fingerprint}, but the run in {given} is {which}: bring that "
            "one back, or leave start_fingerprint out"
        )
    return _with_start(config, which)


def _with_start(config: Config, fingerprint: str | None) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, start_fingerprint=fingerprint))


def start_from(config: Config, program: Program, record: dict[str, Any]) -> State:
    """A first state with the weights of the run that the config starts from, which the record then names."""
    parent = Parent.named(config.train.start_from or "", config).at(config.train.start_fingerprint)
    state, shapes = program.init(), program.abstract_state["params"]
    step, params, beside = read_parameters(parent.folder, shapes, parent.step)
    _require_same("tokenizer", "start_from", parent, beside, record, "its weights mean other text")
    record["started_from"] = f"{parent.folder} at step {step}, config {beside['fingerprint']}"
    record["ancestors"] = ancestors(parent.folder)
    state["params"] = jax.device_put(params, jax.tree.map(lambda x: x.sharding, shapes))
    if "average" in state:
        state["average"] = jax.tree.map(jnp.copy, state["params"])  # both are donated
    return state


def branch_from(config: Config, program: Program, record: dict[str, Any], workdir: Path) -> tuple[int, State]:
    """(step, state) of the run that this one branches off, whose metrics so far become this one's.

    Raises:
      UserError: the steps of that run would not have been this one's, or it read other text.
    """
    parent = Parent.named(config.train.branch_from or "", config)
    step, state, beside = read_state(parent.folder, program.abstract_state, parent.step)
    require_same_history(from_dict(beside["config"]), config, step, parent.folder, BRANCH)
    for what in ("tokenizer", "rows"):
        _require_same(what, "branch_from", parent, beside, record, "its steps were made of other text")
    lines = parsed_lines(parent.folder / "metrics.jsonl")
    write_text(
        workdir / "metrics.jsonl", "".join(line for line, entry in lines if entry and entry.get("step", 0) <= step)
    )
    record["branched_from"] = f"{parent.folder} at step {step}, config {beside['fingerprint']}"
    return step, state


def _require_same(
    what: str, field: str, parent: Parent, beside: dict[str, Any], record: dict[str, Any], because: str
) -> None:
    name = f"{what}_fingerprint"
    if beside[name] != record[name]:
        raise UserError(f"config.train.{field}={parent.folder} was trained with another {what}: {because}")
