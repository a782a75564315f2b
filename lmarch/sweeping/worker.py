"""A worker: takes trials of a study one after the other, trains and evaluates each, until none is left.

Any number of them, on any machines that see the workdir, share a study. One that is killed leaves its trial to the others.
"""

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import jax
import optuna

from lmarch.command_line import use_compilation_cache
from lmarch.errors import UserError
from lmarch.evaluation.rows import read_rows
from lmarch.loading import load
from lmarch.sweeping.plan import describe
from lmarch.sweeping.study import ENDED, Claim, Study
from lmarch.training.checkpoints import saved_steps
from lmarch.training.loop import train

DEATHS = 3  # of a process without a checkpoint between them, after which a trial has failed
SECONDS_BETWEEN_LOOKS = 2.0


def work(workdir: Path) -> int:
    """Returns the exit status: 0 when every trial has ended, 128 + signal when asked to stop."""
    study = Study(workdir)
    while study.under_way:
        claim = study.take()
        if claim is None:  # others are at work, and may die
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        print(f"\ntrial {claim.number}: {describe(claim.point)}", flush=True)
        status = run_trial(study, claim)
        if status:
            return status
        jax.clear_caches()  # the step of training stays: see training/executables.py
    return 0


def run_trial(study: Study, claim: Claim) -> int:
    """Trains, evaluates and notes what came of it; returns 128 + signal if it was asked to stop, and 0 else.

    What goes wrong in a trial, a mistake in the program included, is the trial's end and not the worker's.
    """
    record = claim.record
    if record.get("state") in ENDED:  # its process died before the study was told
        study.tell(claim)
        return 0
    saved = max(saved_steps(claim.folder), default=0)
    died = record.get("state") == "running"
    deaths = record.get("deaths", 0) + 1 if died and saved == record.get("saved") else 0
    if deaths >= DEATHS:
        study.end(claim, "failed", reason=f"its process died {deaths} times after step {saved}: out of memory?")
        return 0
    began = time.time()
    claim.write(state="running", saved=saved, deaths=deaths)
    try:
        use_compilation_cache(claim.config.data.cache_dir)
        outcome = train(claim.config, claim.folder, lambda step, bits: _go_on(claim.trial, step, bits))
        if outcome.exit_status:
            claim.write(state="stopped", seconds=record.get("seconds", 0) + time.time() - began)
            claim.lock.release()
            return outcome.exit_status
        measured = [] if outcome.given_up else _measured(study, claim)
    except KeyboardInterrupt:
        claim.write(state="stopped", seconds=record.get("seconds", 0) + time.time() - began)
        raise
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc(file=sys.stdout)
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"trial {claim.number} failed: {reason}", flush=True)
        study.end(claim, "failed", reason=reason.splitlines()[0] if reason else type(error).__name__)
        return 0
    seconds = record.get("seconds", 0) + time.time() - began
    run = json.loads((claim.folder / "run.json").read_text())
    facts = {name: run.get(name) for name in ("parameters", "steps", "validation_text")}
    # The run's own count is of all its steps, which one that was given up has not done.
    facts["training_flops"] = run["training_flops"] * run["steps"] / claim.config.total_steps
    value = run["validation_bits_per_byte"]
    study.end(claim, "pruned" if outcome.given_up else "finished", value, seconds=seconds, **facts, measured=measured)
    return 0


def _go_on(trial: optuna.Trial, step: int, bits: float) -> bool:
    """Reports to the study, which may give the trial up."""
    trial.report(bits, step)
    return not trial.should_prune()


def _measured(study: Study, claim: Claim) -> list[dict[str, Any]]:
    """Result rows of paired bits per byte of the trained model, as it was trained unless the config names methods."""
    if study.plan.suite is None:
        return []
    from lmarch.reporting.report import evaluate_and_report  # only here, so that nothing needs matplotlib to sweep

    model = load(claim.folder)
    methods = ",".join(claim.config.eval.methods or ()) or model.definition.common_position
    given = [
        ("eval.suite", study.plan.suite),
        ("eval.split", "validation"),
        *([("eval.methods", methods)] if methods else []),
    ]
    evaluate_and_report(model, given)
    kept = ("method", "axis", "length", "trained_length", "value", "ci_low", "ci_high", "gain", "gain_low", "gain_high")
    rows = read_rows(claim.folder / "eval" / study.plan.suite / "results.jsonl")
    return [{key: row.get(key) for key in kept} for row in rows if (row["task"], row["metric"]) == ("paired", "bpb")]
