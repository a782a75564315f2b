"""What `lmarch sweep` does: begin or join a sweep, work at it, say how far it is, and collect what came of it."""

import argparse
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from lmarch.command_line import Override, no_overrides
from lmarch.config_files import load_config
from lmarch.errors import UserError, nearest
from lmarch.evaluation.suites import SUITES
from lmarch.sweeping.collecting import collect
from lmarch.sweeping.estimate import measured_speed, timed_speed, training_flops
from lmarch.sweeping.launchers import LAUNCHERS
from lmarch.sweeping.plan import Plan, describe, read_plan
from lmarch.sweeping.progress import duration, status_line, status_table
from lmarch.sweeping.space_files import load_space
from lmarch.sweeping.study import ENDED, Study
from lmarch.sweeping.worker import measured
from lmarch.sweeping.worker import work as work_at
from lmarch.training.checkpoints import saved_steps
from lmarch.training.interrupts import deaf_to_sigterm
from lmarch.training.parent import with_parent
from lmarch.training.workdir import with_folder

SECONDS_BETWEEN_LINES = 30.0


def run(given: argparse.Namespace, overrides: Sequence[Override]) -> int:
    """Begins, joins or goes on with a sweep, and reports when it is done."""
    launcher, workdir = LAUNCHERS.build(given.launcher), given.workdir
    if given.workers < 1:
        raise UserError(f"--workers={given.workers} must be 1 or more")
    plan = _plan(given, overrides)
    if given.dry_run:
        return _dry_run(plan, given, workdir)
    study = Study.open(workdir, plan)
    print(f"{workdir}: {status_line(study.trials())}", flush=True)
    if not study.under_way:
        print(f"report: {collect(workdir)}")
        return 0
    with _Watch(study) as watch:
        status = launcher.launch(workdir, given.workers, watch)
    if study.under_way:
        return status
    print(f"report: {collect(workdir)}")
    return 0  # a worker may have given up, or been asked to stop: the others came to the end


def retry(given: argparse.Namespace, overrides: Sequence[Override]) -> int:
    """Measures what was trained and not measured, plans once more what has failed, and goes on."""
    no_overrides(overrides)
    workdir = given.workdir
    study = Study(workdir)
    for one in study.trials():
        if one.state == "trained":
            print(f"trial {one.number}: measuring")
            study.measure_again(one, measured)
    print(f"{study.retry()} trials that had failed are tried again", flush=True)
    return run(given, overrides)


def work(given: argparse.Namespace, overrides: Sequence[Override]) -> int:
    no_overrides(overrides)
    if given.cores:
        # Before jax starts its backend, which has a thread for each core it finds.
        os.sched_setaffinity(0, [int(core) for core in given.cores.split(",")])
    if not deaf_to_sigterm():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # outside training as well, it is no death
    return work_at(given.workdir)


def status(given: argparse.Namespace, overrides: Sequence[Override]) -> int:
    no_overrides(overrides)
    trials = Study(given.workdir).trials()
    print(f"{given.workdir}: {status_line(trials)}")
    Console(highlight=False).print(status_table(trials))
    return 0


def collect_all(given: argparse.Namespace, overrides: Sequence[Override]) -> int:
    no_overrides(overrides)
    print(f"report: {collect(given.workdir)}")
    return 0


HANDLERS: Mapping[str, Callable[[argparse.Namespace, Sequence[Override]], int]] = {
    "run": run,
    "work": work,
    "retry": retry,
    "status": status,
    "collect": collect_all,
}


def _plan(given: argparse.Namespace, overrides: Sequence[Override]) -> Plan:
    """What the flags say, checked; or what the workdir holds, if they name no config."""
    if given.config is None and given.space is None:
        if overrides:
            raise UserError(f"--config.{overrides[0][0]} needs --config and --space, which begin a sweep")
        return _joined(given, read_plan(given.workdir))
    if given.config is None or given.space is None:
        raise UserError("a sweep begins with both --config and --space; with neither, --workdir goes on")
    suite = given.suite or "smoke"
    if suite not in (*SUITES, "none"):
        raise UserError(f"unknown --suite={suite}; {nearest(suite, [*SUITES, 'none'])}")
    # What is relative is meant from here, wherever workers start; a base is the one that it is now.
    config = with_parent(with_folder(load_config(given.config, overrides)))
    evaluated = None if suite == "none" else suite
    plan = Plan(config.to_dict(), load_space(given.space), given.pruner or "none", evaluated, given.storage)
    plan.check()
    return plan


def _joined(given: argparse.Namespace, plan: Plan) -> Plan:
    """The plan that a workdir has; UserError for a flag that says otherwise."""
    for name, has in (("suite", plan.suite or "none"), ("pruner", plan.pruner)):
        wanted = getattr(given, name)
        if wanted not in (None, has):
            raise UserError(f"--{name}={wanted}: the sweep in {given.workdir} began with {has}; leave --{name} out")
    return dataclasses.replace(plan, storage=given.storage or plan.storage)  # Study.open compares it


def _dry_run(plan: Plan, given: argparse.Namespace, workdir: Path) -> int:
    """Every trial with its parameters, FLOPs and time; then what would be started."""
    known = (workdir / "sweep.json").exists()
    trials = Study(workdir).trials() if known else []
    configs = [plan.config(plan.point(number)) for number in range(plan.size)] if not plan.space.drawn else []
    flops = [training_flops(config) for config in configs or [plan.config({})] * plan.size]
    # Most of the time goes to the largest ones, and a small model is slower by its FLOPs.
    speed = measured_speed(trials) or timed_speed(configs[flops.index(max(flops))] if configs else plan.config({}))
    console, table = Console(highlight=False, soft_wrap=True), Table(box=None, pad_edge=False)
    for name in ("trial", "fingerprint", "FLOPs", "about", "what"):
        table.add_column(name, justify="right" if name in ("trial", "FLOPs", "about") else "left")
    for number in range(plan.size):
        drawn = "".join(f" {field}=?" for field in plan.space.drawn)
        fingerprint = configs[number].fingerprint() if configs else "when drawn"
        seconds = duration(flops[number] / speed)
        table.add_row(str(number), fingerprint, f"{flops[number]:.3g}", seconds, describe(plan.point(number)) + drawn)
    console.print(table)
    whole = sum(flops)
    at_once = duration(whole / speed / given.workers)
    console.print(
        f"{plan.size} trials, {whole:.3g} FLOPs; on {given.workers} workers, each as fast as this machine, about "
        f"{at_once} of training"
    )
    console.print(f"would start:\n{LAUNCHERS.build(given.launcher).preview(workdir, given.workers)}")
    return 0


class _Watch:
    """Shows how far the study is: a table that stays on a terminal, elsewhere a line now and then."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._last, self._line = time.monotonic(), ""

    def __enter__(self) -> "_Watch":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._draw(self._live)
            self._live.stop()
        else:
            self._say()

    def progress(self) -> list[tuple[bool, int]]:
        """Of every trial whether it has ended, and its last checkpoint."""
        trials = self._study.trials()
        return [(one.state in ENDED, max(saved_steps(one.folder), default=0) if one.folder else 0) for one in trials]

    def __call__(self) -> None:
        seconds = 2.0 if self._live else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._last < seconds:
            return
        self._last = time.monotonic()
        if self._live:
            self._draw(self._live)
        else:
            self._say()

    def _draw(self, live: Live) -> None:
        trials = self._study.trials()
        live.update(Group(status_line(trials), status_table(trials)), refresh=True)

    def _say(self) -> None:
        line = status_line(self._study.trials())
        if line != self._line:
            print(line, flush=True)
        self._line = line
