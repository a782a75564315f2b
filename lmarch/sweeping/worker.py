"""A worker: takes trials of a study one after the other, trains and evaluates each, until none is left.

Any number of them, on any machines that see the workdir, share a study. One that is killed leaves its trial to the others.
"""

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import jax
import optuna

from lmarch.command_line import use_compilation_cache
from lmarch.config import Config
from lmarch.durable import HOST
from lmarch.errors import UserError
from lmarch.evaluation.rows import read_rows
from lmarch.loading import load
from lmarch.sweeping.failures import kind_of, reason_of
from lmarch.sweeping.plan import Plan, describe
from lmarch.sweeping.study import ENDED, Claim, Study
from lmarch.training.checkpoints import saved_steps
from lmarch.training.loop import train
from lmarch.training.workdir import read_record as read_run

DEATHS = 3  # of a process without a checkpoint between them, after which a trial has failed
FAILURES = 3  # in a row that are no fault of the trials, after which a worker gives up
GAVE_UP = 75  # its exit status then: EX_TEMPFAIL
SECONDS_BETWEEN_LOOKS = 2.0


def work(workdir: Path) -> int:
    """Run trials until none is left.

    Returns:
      The exit status: 0 when every trial has ended, 128 + signal when asked to stop, GAVE_UP when this machine is no place for
      what is left.
    """
    study, worker, in_a_row = Study(workdir), f"{HOST} process {os.getpid()}", 0
    while study.under_way:
        claim = study.take(worker)
        if claim is None:
            if left := study.left_to_others(worker):
                print(
                    f"{left} trials are left that failed on this worker: another one, elsewhere, may do better",
                    flush=True,
                )
                return GAVE_UP
            time.sleep(SECONDS_BETWEEN_LOOKS)  # others are at work, and may die
            continue
        print(f"\ntrial {claim.number}: {describe(claim.point)}", flush=True)
        try:
            status, in_a_row = run_trial(study, claim), 0
        except Exception as error:
            kind, status = _note_failure(study, claim, worker, error), 0
            in_a_row = 0 if kind == "config" else in_a_row + 1
        if in_a_row == FAILURES:
            print(f"{FAILURES} trials in a row failed through no fault of their own: this worker gives up", flush=True)
            return GAVE_UP
        if status:
            return status
        jax.clear_caches()  # the step of training stays: see training/executables.py
    return 0


def _note_failure(study: Study, claim: Claim, worker: str, error: Exception) -> str:
    """Says why a trial failed, and leaves it to be tried again if that may help; returns the kind of failure."""
    if not isinstance(error, UserError):
        traceback.print_exception(error, file=sys.stdout)
    kind, reason = kind_of(error), reason_of(error)
    print(f"trial {claim.number} failed: {reason}", flush=True)
    study.failed(claim, worker, kind, reason)
    return kind


def run_trial(study: Study, claim: Claim) -> int:
    """Train, evaluate and note what came of it; returns 128 + signal if it was asked to stop, and 0 else.

    What goes wrong in training is raised. A trial that was trained and could not be measured has ended: it has its value.
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
        state, found = ("pruned", {}) if outcome.given_up else measured(study.plan, claim.config, claim.folder)
    except KeyboardInterrupt:
        claim.write(state="stopped", seconds=record.get("seconds", 0) + time.time() - began)
        raise
    run = read_run(claim.folder)
    facts = {name: run.get(name) for name in ("parameters", "steps", "validation_text")}
    # The run's own count is of all its steps, which one that was given up has not done.
    facts["training_flops"] = run["training_flops"] * run["steps"] / claim.config.total_steps
    seconds = record.get("seconds", 0) + time.time() - began
    study.end(claim, state, run["validation_bits_per_byte"], seconds=seconds, **facts, **found)
    return 0


def measured(plan: Plan, config: Config, folder: Path) -> tuple[str, dict[str, Any]]:
    """(state, entries of the record) of a trained trial: `finished` with what was measured, or `trained` with why not."""
    try:
        return "finished", {"measured": _measurements(plan, config, folder), "reason": None}
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exception(error, file=sys.stdout)
        print(f"trained, not measured: {reason_of(error)}", flush=True)
        return "trained", {"measured": [], "reason": f"not measured: {reason_of(error)}"}


def _go_on(trial: optuna.Trial, step: int, bits: float) -> bool:
    """Reports to the study, which may give the trial up."""
    trial.report(bits, step)
    return not trial.should_prune()


def _measurements(plan: Plan, config: Config, folder: Path) -> list[dict[str, Any]]:
    """Result rows of paired bits per byte of the trained model, as it was trained unless the config names methods."""
    if plan.suite is None:
        return []
    from lmarch.reporting.report import evaluate_and_report  # only here, so that nothing needs matplotlib to sweep

    model = load(folder)
    methods = ",".join(config.eval.methods or ()) or model.definition.common_position
    given = [
        ("eval.suite", plan.suite),
        ("eval.split", "validation"),
        *([("eval.methods", methods)] if methods else []),
    ]
    evaluate_and_report(model, given)
    kept = ("method", "axis", "length", "trained_length", "value", "ci_low", "ci_high", "gain", "gain_low", "gain_high")
    rows = read_rows(folder / "eval" / plan.suite / "results.jsonl")
    return [{key: row.get(key) for key in kept} for row in rows if (row["task"], row["metric"]) == ("paired", "bpb")]
