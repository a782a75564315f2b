"""A sweep under way: who runs which trial, and what came of it.

The order of trials, their draws and their values lie in an Optuna study; what a trial is lies in its folder,
WORKDIR/trials/FINGERPRINT, which is a run of `lmarch train` with a `trial.json` beside it. Whoever runs a trial holds the
lock of its folder; a trial that is under way by the study and whose lock is free was left by a process that died, and is
taken over.
"""

import dataclasses
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from lmarch.config import Config
from lmarch.errors import UserError
from lmarch.sweeping.lock import Lock
from lmarch.sweeping.plan import Plan, read_plan, without_password, write_plan
from lmarch.sweeping.space import Point
from lmarch.training.workdir import write_json

ENDED = ("finished", "pruned", "failed")  # states of a trial's record that are final; others: running, stopped


@dataclasses.dataclass
class Claim:
    """A trial that this process runs, as long as it holds the lock."""

    number: int
    point: Point  # with what was drawn
    config: Config
    folder: Path
    trial: optuna.Trial
    lock: Lock

    @property
    def record(self) -> dict[str, Any]:
        return read_record(self.folder)

    def write(self, **entries: Any) -> None:
        """Adds to the record."""
        known = {"number": self.number, "point": dict(self.point)}
        write_json(self.folder / "trial.json", {**self.record, **known, **entries})


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is known of one of a plan's trials."""

    number: int
    point: Point
    state: str  # waiting, running, interrupted, repeated (a draw that came before), or one of ENDED
    record: Mapping[str, Any]
    folder: Path | None


class Study:
    """The trials of a workdir, for the coordinator, for workers and for reports."""

    def __init__(self, workdir: Path) -> None:
        self.workdir, self.plan = workdir, read_plan(workdir)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._lock = Lock(workdir / "lock")
        self._study = optuna.create_study(
            study_name=self.plan.study,
            storage=_storage(self.plan, workdir),
            sampler=optuna.samplers.TPESampler(n_startup_trials=5),
            pruner=_pruner(self.plan),
            load_if_exists=True,
        )

    @classmethod
    def open(cls, workdir: Path, plan: Plan) -> "Study":
        """Begins the sweep, or joins the same one; raises UserError where the folder holds another."""
        (workdir / "trials").mkdir(parents=True, exist_ok=True)
        with Lock(workdir / "lock"):
            if (workdir / "sweep.json").exists():
                before = read_plan(workdir)
                if before.fingerprint != plan.fingerprint:
                    raise UserError(
                        f"{workdir} holds another sweep (base, space, pruner or suite differ): choose another --workdir"
                    )
                if plan.storage not in (None, before.storage):
                    raise UserError(f"{workdir} keeps its study in {before.where}: leave --storage out")
            else:
                _storage(plan, workdir)  # a mistyped address is no sweep's
                write_plan(workdir, dataclasses.replace(plan, study=f"lmarch-{uuid.uuid4().hex}"))
            study = cls(workdir)
            # Also where the process that began this died before all were planned.
            planned = {one.user_attrs["number"] for one in study._trials()}
            for number in range(plan.size):
                if number not in planned:
                    study._enqueue(number)
        return study

    def take(self) -> Claim | None:
        """A trial to run: first those that were left by others, then the next one; None: there is nothing to do now."""
        with self._lock:
            for one in self._trials(TrialState.RUNNING):
                if (claim := self._left_by_another(one)) is not None:
                    return claim
            while waiting := self._trials(TrialState.WAITING):
                claim = self._begin(waiting[0])
                if claim is not None:
                    return claim
        return None

    @property
    def under_way(self) -> bool:
        """Whether some trial has not ended."""
        return bool(self._trials(TrialState.RUNNING, TrialState.WAITING))

    def end(self, claim: Claim, state: str, value: float | None = None, **entries: Any) -> None:
        """Notes how a trial ended, in its folder and then in the study. `value`: bits per byte of validation."""
        claim.write(state=state, value=value, **entries)
        self.tell(claim)

    def tell(self, claim: Claim) -> None:
        """Passes on what the folder says of a trial that has ended."""
        record = claim.record
        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        value = record["value"] if record["state"] == "finished" else None
        with self._lock:
            self._study.tell(claim.trial, value, states[record["state"]])
        claim.lock.release()

    def trials(self) -> list[Trial]:
        """All that are planned, by number."""
        with self._lock:  # a lock that is tried here looks taken to whoever wants the trial
            made = {one.user_attrs["number"]: self._described(one) for one in self._trials()}
        waiting = (Trial(n, self.plan.point(n), "waiting", {}, None) for n in range(self.plan.size))
        return [made.get(one.number, one) for one in waiting]

    @property
    def importances(self) -> dict[str, float]:
        """The share of each field in how values differ, as far as it can be told; empty with too few trials."""
        try:
            return optuna.importance.get_param_importances(
                self._study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError):  # fewer than two values, or all of them equal
            return {}

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Without those that a process left before it was known what they are."""
        found = self._study.get_trials(deepcopy=False, states=states or None)
        return [one for one in found if "lost" not in one.user_attrs]

    def _enqueue(self, number: int) -> None:
        self._study.enqueue_trial(dict(self.plan.point(number)), user_attrs={"number": number})

    def _begin(self, waiting: FrozenTrial) -> Claim | None:
        number = waiting.user_attrs["number"]
        trial = self._study.ask(self._distributions(self.plan.point(number)))
        point = dict(trial.params)
        config = self.plan.config(point)
        trial.set_user_attr("fingerprint", config.fingerprint())
        claim = self._claim(number, point, config, trial)
        if claim is None:  # the same run under another number, by a draw that came twice
            self._study.tell(trial, state=TrialState.FAIL)
        return claim

    def _left_by_another(self, running: FrozenTrial) -> Claim | None:
        number = running.user_attrs["number"]
        trial = optuna.Trial(self._study, running._trial_id)
        if "fingerprint" not in running.user_attrs:  # its process died within `_begin`
            trial.set_user_attr("lost", True)
            self._study.tell(trial, state=TrialState.FAIL)
            self._enqueue(number)
            return None
        point = dict(running.params)
        return self._claim(number, point, self.plan.config(point), trial)

    def _claim(self, number: int, point: Point, config: Config, trial: optuna.Trial) -> Claim | None:
        folder = self.folder(config.fingerprint())
        folder.mkdir(exist_ok=True)
        lock = Lock(folder / "lock")
        return Claim(number, point, config, folder, trial, lock) if lock.acquire(wait=False) else None

    def folder(self, fingerprint: str) -> Path:
        return self.workdir / "trials" / fingerprint

    def _distributions(self, point: Point) -> dict[str, optuna.distributions.BaseDistribution]:
        space = self.plan.space
        known = {
            field: space.ranges[field].distribution
            if field in space.ranges
            else optuna.distributions.CategoricalDistribution(space.values(field))
            for field in point
        }
        return known | {field: one.distribution for field, one in space.drawn.items()}

    def _described(self, one: FrozenTrial) -> Trial:
        number, fingerprint = one.user_attrs["number"], one.user_attrs.get("fingerprint")
        if fingerprint is None:
            return Trial(number, self.plan.point(number), "waiting", {}, None)
        folder = self.folder(fingerprint)
        record = read_record(folder)
        state = record.get("state", "running")
        if record.get("number", number) != number and one.state.is_finished():
            state, record = "repeated", {"reason": f"the same run as trial {record['number']}"}
        elif not folder.is_dir():
            state = "interrupted"
        elif not one.state.is_finished():
            lock = Lock(folder / "lock")
            if lock.acquire(wait=False):
                lock.release()
                state = state if state in ENDED else "interrupted"
            else:
                state = "running"
        return Trial(number, dict(one.params), state, record, folder)


def read_record(folder: Path) -> dict[str, Any]:
    file = folder / "trial.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return record


class _JournalLock(JournalFileOpenLock):
    """Instead of Optuna's own, which a killed process leaves behind."""

    def __init__(self, file: Path) -> None:
        self._lock = Lock(file)

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


def _storage(plan: Plan, workdir: Path) -> optuna.storages.BaseStorage:
    if plan.storage is None:
        lock = _JournalLock(workdir / "journal.lock")
        return optuna.storages.JournalStorage(JournalFileBackend(str(workdir / "journal.log"), lock_obj=lock))
    # The driver that `lmarch[sweep]` brings; an address may name another one.
    address = plan.storage.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        return optuna.storages.RDBStorage(address)
    except Exception as error:  # whatever the database's driver raises
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--storage={without_password(plan.storage)} cannot be opened ({reason}): is the server up, the address right?"
        ) from error


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
    if plan.pruner == "none":
        return optuna.pruners.NopPruner()
    if plan.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4)  # nothing is judged before four trials have gone as far
    config = plan.config(plan.point(0))
    between = config.steps("eval")
    assert between is not None  # as Plan.check requires
    return optuna.pruners.HyperbandPruner(min_resource=between, max_resource=config.total_steps)
