"""A run that is stopped and goes on, against one that is not, and that against itself: not every device repeats a sum.

  python -m benchmarks.gpu_check.resume PLAN        prints the figures of one ResumePlan in JSON

On a GPU that is done once more in a process of its own, which is told to repeat its sums: there all bits must be the same.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_check.plan import Plan, ResumePlan
from benchmarks.gpu_check.record import Figures, Record
from lmarch.config import Config, from_dict
from lmarch.data.tokenizers import load_tokenizer
from lmarch.models.definition import ModelDefinition
from lmarch.training.checkpoints import read_parameters
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics

TEXT = Path(__file__).parents[2] / "docs"
NUMBERS = ("loss", "grad_norm", "validation_loss")
# Two runs of a device that does not repeat itself differ by chance: a third may differ by a few times as much.
CHANCE = 10
REPEATING = "--xla_gpu_deterministic_ops=true"


def begin(record: Record, whole: Plan) -> Callable[[], None]:
    """A row, and on a GPU a second one of a process whose sums repeat."""
    plan = whole.resume

    def measure() -> None:
        name = f"{plan.steps} steps, stopped after {plan.stop_at}"
        record.measure("resume", name, lambda: _measure(plan))
        if jax.default_backend() == "gpu":
            record.measure("resume", f"{name}, deterministic", lambda: repeating(plan, record.left))

    return measure


def repeating(plan: ResumePlan, seconds: float) -> Figures:
    """The same in a process with deterministic sums, in what memory this one leaves; `ok` only if nothing differs."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CLIENT_MEM_FRACTION")}
    environment |= {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {REPEATING}".strip(),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    command = [sys.executable, "-m", "benchmarks.gpu_check.resume", json.dumps(dataclasses.asdict(plan))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return {**figures, "ok": figures["bitwise"]}


def _measure(plan: ResumePlan) -> Figures:
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(plan, folder)
        for run in ("whole", "again"):
            assert train(config, folder / run).exit_status == 0
        stopped = train(config, folder / "stopped", go_on=_stopping_at(plan.stop_at))
        assert stopped.exit_status == 128 + signal.SIGINT, f"not stopped: exit status {stopped.exit_status}"
        assert stopped.steps == plan.stop_at, f"stopped after {stopped.steps} steps"
        assert train(config, folder / "stopped").steps == plan.steps
        results = {run: _result(config, folder / run) for run in ("whole", "again", "stopped")}
    resumed, control = (_difference(results[run], results["whole"]) for run in ("stopped", "again"))
    return {
        "largest_difference": max(resumed.values()),
        "of_the_same_run_again": max(control.values()),
        "bitwise": not any(resumed.values()),
        "ok": all(resumed[what] <= CHANCE * control[what] for what in resumed),
        "differences": resumed,
        "differences_again": control,
    }


def _stopping_at(last: int) -> Callable[[int, float], bool]:
    """Ctrl-C, as a user's, when the step is validated."""

    def go_on(step: int, bits: float) -> bool:
        if step == last:
            signal.raise_signal(signal.SIGINT)
        return True

    return go_on


def _config(plan: ResumePlan, folder: Path) -> Config:
    return from_dict(
        {
            "data": {
                "corpus": f"text:{TEXT}/*.md",
                "cache_dir": str(folder / "cache"),
                "batch_rows": plan.batch_rows,
            },
            "model": {
                **dict(trained_length=plan.length, num_layers=plan.num_layers, dim=plan.dim, num_heads=4),
                "compute_dtype": "bfloat16",
            },
            "train": {
                **dict(steps=plan.steps, eval_steps=plan.stop_at, checkpoint_steps=plan.stop_at),
                **dict(log_steps=1, eval_rows=plan.batch_rows),
            },
        }
    )


def _result(config: Config, workdir: Path) -> dict[str, Any]:
    """The last weights, and what the log says of every step."""
    vocab_size = load_tokenizer(config.data.tokenizer).vocab_size
    weights = read_parameters(workdir, ModelDefinition(config.model, vocab_size).shapes, step=None)[1]
    logged = {name: [m[name] for m in read_metrics(workdir) if name in m] for name in NUMBERS}
    return {"weights": np.concatenate([np.ravel(x) for x in jax.tree.leaves(weights)]), **logged}


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each, relative to the largest value."""
    return {
        name: float(np.abs(np.subtract(ours[name], theirs[name])).max() / np.abs(theirs[name]).max()) for name in theirs
    }


if __name__ == "__main__":
    print(json.dumps(_measure(ResumePlan(**json.loads(sys.argv[1])))))
