"""Which steps two runs have in common, so that one may go on from where the other is.

A run may be given more steps, another decay or other positions later on, as long as every step that is done would have been
the same. Then it goes on in its own folder, or, as a branch, in another one (`train.branch_from`).
"""

from pathlib import Path
from typing import Any

import numpy as np

from lmarch.config import Config
from lmarch.errors import UserError
from lmarch.training.optimizers import learning_rate_schedule

# Of `config.train`, what says how a run goes on: two runs that differ in it may have their first steps in common.
OF_LATER_STEPS = (
    *("steps", "tokens", "warmup_steps", "warmup_tokens", "decay_steps", "decay_tokens"),
    *("schedule", "final_fraction", "position_schedule"),
)


def require_same_history(before: Config, now: Config, step: int, where: Path, advice: str) -> None:
    """Check that the first `step` steps of two configs are the same.

    Args:
      before: the config by which these steps were done.
      now: the config that is to go on from there.
      where: the run of `before`, for messages.
      advice: what to do about a field that all steps depend on, at the end of the message.

    Raises:
      UserError: a field that all steps depend on differs, or the learning rates or positions of a step that is done.
    """
    differ = differences(_without_later(before), _without_later(now))
    if differ:
        raise UserError(f"{where} holds a run of another config ({_listed(differ)}): {advice}")
    parting = _first_difference(before, now, step)
    if parting is not None:
        changed = _listed(differences(before.meaningful(), now.meaningful()))
        raise UserError(
            f"{where} is at step {step}, and by {changed} step {parting + 1} would have been another one: choose another "
            "--workdir for a new run, or go on from a checkpoint before it with config.train.branch_from=RUN@STEP "
            "(schedules wsd and constant can be prolonged, cosine cannot)"
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields of two nested configs whose values differ, by dotted name: (before, now)."""
    old, new = _flatten(before), _flatten(now)
    names = sorted(old.keys() | new.keys())
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _first_difference(before: Config, now: Config, step: int) -> int | None:
    """The first of the steps [0, step) that the two configs do not do alike; none: they do."""
    done = np.arange(step)
    rates = [np.asarray(learning_rate_schedule(config)(done)) for config in (before, now)]
    unlike = np.flatnonzero(np.broadcast_to(rates[0] != rates[1], done.shape))
    starts = [{phase["step"] for phase in config.train.position_schedule} for config in (before, now)]
    moves = [at for at in starts[0] | starts[1] if at < step and before.model_at(at + 1) != now.model_at(at + 1)]
    return min([*map(int, unlike[:1]), *moves], default=None)


def _without_later(config: Config) -> dict[str, Any]:
    made = config.meaningful()
    made["train"] = {name: value for name, value in made["train"].items() if name not in OF_LATER_STEPS}
    return made


def _listed(differ: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in list(differ.items())[:4])


def _flatten(tree: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return flat
