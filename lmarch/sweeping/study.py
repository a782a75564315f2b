"""A sweep under way: who runs which trial, and what came of it.

The order of trials, their draws and their values lie in an Optuna study, which knows a trial by its number in the plan; what a
trial is lies in its folder, WORKDIR/trials/FINGERPRINT, which is a run of `lmarch train` with a `trial.json` beside it. Whoever
runs a trial holds the lock of its folder; a trial that is under way by the study and whose lock is free was left, by a process
that died or because it failed there, and is taken over.
"""

import dataclasses
import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from lmarch.config import Config, digest
from lmarch.durable import remove_torn_end, write_json
from lmarch.errors import UserError
from lmarch.lock import Lock
from lmarch.provenance import now
from lmarch.sweeping.failures import for_good, left_to_others
from lmarch.sweeping.plan import Plan, read_plan, without_password, write_plan
from lmarch.sweeping.space import Point

# States of a trial's record that are final; `trained`: and could not be measured. Others: running, stopped, again.
IN_STUDY = {
    "finished": TrialState.COMPLETE,
    "trained": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
ENDED = tuple(IN_STUDY)


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
    state: str  # waiting, running, interrupted, again (it failed and is tried again), repeated (a draw that came before), ENDED
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

    def take(self, worker: str = "") -> Claim | None:
        """A trial to run; None: there is nothing to do now.

        First come those that were left by others, then the next one, then those that failed and are tried again, but for what
        failed on this worker's machine.
        """
        with self._lock:
            left: list[FrozenTrial] = []
            again: list[FrozenTrial] = []
            for one in self._trials(TrialState.RUNNING):
                record = self._record(one)
                if not left_to_others(record, worker):
                    (again if record.get("state") == "again" else left).append(one)
            for one in left:
                if (claim := self._left_by_another(one)) is not None:
                    return claim
            while waiting := self._trials(TrialState.WAITING):
                claim = self._begin(waiting[0])
                if claim is not None:
                    return claim
            for one in again:
                if (claim := self._left_by_another(one)) is not None:
                    return claim
        return None

    def left_to_others(self, worker: str) -> int:
        """How many trials are left, if all of them failed on this worker's machine; else 0."""
        left = self._trials(TrialState.RUNNING, TrialState.WAITING)
        return len(left) if all(left_to_others(self._record(one), worker) for one in left) else 0

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
        told = IN_STUDY[record["state"]]
        with self._lock:
            self._study.tell(claim.trial, record["value"] if told == TrialState.COMPLETE else None, told)
        claim.lock.release()

    def failed(self, claim: Claim, worker: str, kind: str, reason: str) -> None:
        """Notes a failure: the trial has failed for good, or is left to be tried again."""
        failure = {"kind": kind, "reason": reason, "worker": worker, "when": now()}
        failures = [*claim.record.get("failures", []), failure]
        if for_good(failures):
            self.end(claim, "failed", reason=reason, failures=failures)
        else:
            claim.write(state="again", reason=reason, failures=failures)
            claim.lock.release()

    def retry(self) -> int:
        """Plans every trial that has failed for good once more, its failures forgiven; returns how many there are."""
        with self._lock:
            failed = [self._described(one) for one in self._trials(TrialState.FAIL)]
            failed = [one for one in failed if one.state == "failed" and one.folder is not None]
            for one in failed:
                assert one.folder is not None
                # First the study: if this dies in between, the trial is told to have failed once more, and can be tried again.
                self._enqueue(one.number, {field: one.point[field] for field in self.plan.space.drawn})
                before = [*one.record.get("before", []), *one.record.get("failures", [])]
                write_json(
                    one.folder / "trial.json", {**one.record, "state": "again", "failures": [], "before": before}
                )
        return len(failed)

    def measure_again(self, trial: Trial, measured: Callable[[Plan, Config, Path], tuple[str, dict[str, Any]]]) -> None:
        """Measures a trial that was trained and could not be measured, unless another does; its value stays what it is."""
        assert trial.folder is not None
        lock = Lock(trial.folder / "trial.lock")
        if not lock.acquire(wait=False):
            return
        try:
            state, found = measured(self.plan, self.plan.config(trial.point), trial.folder)
            write_json(trial.folder / "trial.json", {**read_record(trial.folder), "state": state, **found})
        finally:
            lock.release()

    def trials(self) -> list[Trial]:
        """All that are planned, by number."""
        with self._lock:  # a lock that is tried here looks taken to whoever wants the trial
            made = {one.user_attrs["number"]: self._described(one) for one in self._trials()}
        waiting = (Trial(n, self.plan.point(n), "waiting", {}, None) for n in range(self.plan.size))
        return [made.get(one.number, one) for one in waiting]

    @property
    def importances(self) -> dict[str, float]:
        """The share of each field in how values differ, as far as it can be told; empty with too few trials."""
        whole = optuna.create_study()
        for one in self.trials():
            if one.state in ("finished", "trained"):
                known = self._distributions(one.point)
                whole.add_trial(
                    optuna.create_trial(params=dict(one.point), distributions=known, value=one.record["value"])
                )
        try:
            return optuna.importance.get_param_importances(
                whole, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError):  # fewer than two values, or all of them equal
            return {}

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The last that the study has of each number: one that is planned again stands for what it was before."""
        latest = {one.user_attrs["number"]: one for one in self._study.get_trials(deepcopy=False)}
        in_order = sorted(latest.values(), key=lambda one: one.number)  # in which the study asks for what waits
        return [one for one in in_order if not states or one.state in states]

    def _enqueue(self, number: int, drawn: Point = MappingProxyType({})) -> None:
        """Plans a trial. What it has by the plan is known by its number; the study keeps what it is told of every trial.

        Args:
          drawn: what was drawn before, of a trial that is tried again.
        """
        self._study.enqueue_trial(dict(drawn), user_attrs={"number": number})

    def _begin(self, waiting: FrozenTrial) -> Claim | None:
        number = waiting.user_attrs["number"]
        # A seed a number: workers that draw at once do not draw the same, and a sweep that is repeated draws what it drew.
        seed = int(digest([self.plan.fingerprint, number]), 16) % 2**32
        self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=5, constant_liar=True, seed=seed)
        trial = self._study.ask({field: one.distribution for field, one in self.plan.space.drawn.items()})
        point = {**self.plan.point(number), **trial.params}
        config = self.plan.config(point)
        trial.set_user_attr("fingerprint", config.fingerprint())
        claim = self._claim(number, point, config, config.fingerprint(), trial)
        if claim is None:  # the same run under another number, by a draw that came twice
            self._study.tell(trial, state=TrialState.FAIL)
        return claim

    def _left_by_another(self, running: FrozenTrial) -> Claim | None:
        number = running.user_attrs["number"]
        trial = optuna.Trial(self._study, running._trial_id)
        if "fingerprint" not in running.user_attrs:  # its process died within `_begin`
            self._study.tell(trial, state=TrialState.FAIL)
            self._enqueue(number)
            return None
        point = {**self.plan.point(number), **running.params}
        # By the name that it was begun under: a base that was trained further, or an earlier version, may have made it another.
        return self._claim(number, point, self.plan.config(point), running.user_attrs["fingerprint"], trial)

    def _claim(self, number: int, point: Point, config: Config, fingerprint: str, trial: optuna.Trial) -> Claim | None:
        folder = self.folder(fingerprint)
        folder.mkdir(exist_ok=True)
        lock = Lock(folder / "trial.lock")
        return Claim(number, point, config, folder, trial, lock) if lock.acquire(wait=False) else None

    def folder(self, fingerprint: str) -> Path:
        return self.workdir / "trials" / fingerprint

    def _record(self, one: FrozenTrial) -> dict[str, Any]:
        fingerprint = one.user_attrs.get("fingerprint")
        return {} if fingerprint is None else read_record(self.folder(fingerprint))

    def _distributions(self, point: Point) -> dict[str, optuna.distributions.BaseDistribution]:
        space = self.plan.space
        return {
            field: space.ranges[field].distribution
            if field in space.ranges
            else optuna.distributions.CategoricalDistribution(space.values(field))
            for field in point
        }

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
            if Lock(folder / "trial.lock").free():
                state = state if state in (*ENDED, "again") else "interrupted"
            else:
                state = "running"
        return Trial(number, {**self.plan.point(number), **one.params}, state, record, folder)


def read_record(folder: Path) -> dict[str, Any]:
    file = folder / "trial.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return record


class _JournalLock(JournalFileOpenLock):
    """Instead of Optuna's own, which a killed process leaves behind.

    Whoever holds it also removes the beginning of a line that a full disk cut off: Optuna would add the next one to it, and
    could read none of what follows.
    """

    def __init__(self, file: Path, journal: Path) -> None:
        self._lock, self._journal = Lock(file), journal

    def acquire(self) -> bool:
        taken = self._lock.acquire()
        remove_torn_end(self._journal)
        return taken

    def release(self) -> None:
        self._lock.release()


def _storage(plan: Plan, workdir: Path) -> optuna.storages.BaseStorage:
    if plan.storage is None:
        lock = _JournalLock(workdir / "journal.lock", workdir / "journal.log")
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
