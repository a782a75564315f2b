"""Training, as a flat sequence. The order of operations is part of the contract:

  open the workdir -> text, rows -> model, mesh (all checks) -> restore or initialise -> compile
  -> per step: batch -> step -> read the step before -> log -> validate -> save -> stop if asked

Nothing waits for the step in flight except a log line of an earlier step, a validation or a save. Every number in
`metrics.jsonl` but the timings is a function of the config alone, so an interrupted run that goes on leaves the same
file as one that was never interrupted.
"""

from pathlib import Path
from typing import Any

import jax

from lmarch.config import Config, from_dict
from lmarch.errors import MachineError, UserError
from lmarch.training.checkpoints import Checkpoints
from lmarch.training.history import require_same_history
from lmarch.training.interrupts import StopRequest
from lmarch.training.parent import branch_from, start_from, with_parent
from lmarch.training.run import GoOn, Outcome, Run
from lmarch.training.setup import Setup, set_up
from lmarch.training.step import State
from lmarch.training.workdir import ADVICE, changes, complete_record, opened, with_folder, write_config


def train(config: Config, workdir: str | Path, go_on: GoOn = lambda step, bits: True) -> Outcome:
    """Train, or go on with, the run of `config` in `workdir`.

    Args:
      go_on: asked after every validation but the last; a run that is given up is saved first.

    Raises:
      UserError: anything a user can mend, before compilation where that is possible; a loss that is not finite, with
        the step and the last good checkpoint.
    """
    if jax.process_count() > 1:
        raise UserError("training on several processes is not supported yet: start one process that sees all devices")
    folder = Path(workdir).expanduser()
    config = with_parent(with_folder(config, folder), folder)
    with opened(folder, config):
        setup = set_up(config, folder)
        checkpoints = Checkpoints(folder, config.train.keep_checkpoints)
        step, state = _first(setup, checkpoints)
        if step > config.total_steps:
            raise UserError(
                f"{folder} is already trained for {step} steps, more than the {config.total_steps} of the config: raise "
                "train.steps, or branch from an earlier checkpoint with config.train.branch_from=RUN@STEP"
            )
        if step == config.total_steps:
            print(f"{folder} is already trained for {step} steps; evaluate it with lmarch eval --workdir={folder}")
            complete_record(folder, config)
            return Outcome(step, 0, None)
        _note_changes(setup, step)
        try:
            write_config(folder, config)
            with StopRequest() as stop, Run(setup, checkpoints, start=step) as run:
                step = run.steps(state, stop, go_on)
                return run.outcome(step, stop.exit_status)
        except OSError as error:
            raise MachineError(
                f"{folder} cannot be written ({error.strerror or error}); {checkpoints.last_good()}"
            ) from error


def _first(setup: Setup, checkpoints: Checkpoints) -> tuple[int, State]:
    """(steps done, state): from the run's own checkpoint, else from the run that it branches off or starts from, else anew."""
    train = setup.config.train
    restored = checkpoints.restore(setup.program.abstract_state)
    if restored is not None:
        step, state, beside = restored
        _require_same_run(beside, step, setup)
        return step, state
    if train.branch_from is not None:
        return branch_from(setup.config, setup.program, setup.record, setup.folder)
    if train.start_from is not None:
        return 0, start_from(setup.config, setup.program, setup.record)
    return 0, setup.program.init()


def _note_changes(setup: Setup, step: int) -> None:
    """Say and record what is not as it was when the run was started or went on last."""
    changed = changes(setup.folder, setup.config)
    if changed:
        print(
            "; ".join(
                f"{name} was {before!r}, is {now!r} from step {step} on" for name, (before, now) in changed.items()
            )
        )
        setup.record["changes"] = [*setup.record.get("changes", []), {"step": step, **changed}]


def _require_same_run(beside: dict[str, Any], step: int, setup: Setup) -> None:
    """Check that what stands beside a checkpoint is of this run: its config so far, its tokenizer, its text."""
    if beside.get("fingerprint") != setup.record["fingerprint"]:
        require_same_history(from_dict(beside["config"]), setup.config, step, setup.folder, ADVICE)
    for what in ("tokenizer", "rows"):
        name = f"{what}_fingerprint"
        if beside.get(name) != setup.record[name]:
            raise UserError(
                f"the checkpoint was trained with another {what} ({beside.get(name)}, now {setup.record[name]}): bring the old "
                "one back, or choose another --workdir"
            )
