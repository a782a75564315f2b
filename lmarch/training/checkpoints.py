"""Checkpoints: one atomic Orbax directory a step, holding the state, the config and its fingerprints.

Kept: the latest few and the one that is best on validation. A save runs in the background and appears when it is
complete. A checkpoint that cannot be read, or whose values are no longer those that were saved, is moved aside, not
deleted, and the last good one is used instead.
"""

import contextlib
import functools
import gc
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from lmarch.errors import MachineError, UserError
from lmarch.training.checksums import checksums

METRIC = "validation_bits_per_byte"
CHECKSUMS = "checksums"  # in the record beside a state
SECONDS_UNTIL_READS_END = 0.5  # after one of Orbax's concurrent reads has failed
Record = dict[str, Any]


def folder_of(workdir: Path) -> Path:
    return (workdir / "checkpoints").absolute()


def saved_steps(workdir: Path) -> list[int]:
    """The steps that have a directory, ascending; whether it can be read is known when it is read."""
    folder = folder_of(workdir)
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []


class Checkpoints:
    """The checkpoints of one run, under `workdir/checkpoints/STEP`."""

    def __init__(self, workdir: Path, keep: int = 2, report: Callable[[str], None] = print) -> None:
        self._workdir, self._keep, self._report = workdir, keep, report
        self._saving: tuple[int, Any] | None = None  # the step and Orbax's response

    @functools.cached_property
    def _orbax(self) -> ocp.training.Checkpointer:
        # Opened at the first save: it lists the folder once, and `restore` may have moved damaged ones aside by then.
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC], reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        return ocp.training.Checkpointer(
            folder_of(self._workdir),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best]),
            cleanup_tmp_directories=True,
        )

    def last_good(self) -> str:
        """For messages: which checkpoint there is to go on from."""
        unfinished = self._saving[0] if self._saving else None
        good = [step for step in saved_steps(self._workdir) if step != unfinished]
        return f"the last good checkpoint is {max(good)}" if good else "no checkpoint was saved before"

    def restore(self, abstract: Any) -> tuple[int, Any, Record] | None:
        """The newest readable checkpoint as (step, state, record) in the shapes and shardings of `abstract`.

        None if nothing was saved yet.

        Raises:
          UserError: a checkpoint of another model, or none of those that exist can be read.
        """
        steps, damaged = saved_steps(self._workdir), dict[int, Damaged]()
        for step in reversed(steps):
            try:
                state, record = _read(folder_of(self._workdir) / str(step), abstract)
            except Damaged as damage:
                damaged[step] = damage
                continue
            self._move_aside(damaged, step)
            return step, state, record
        aside = folder_of(self._workdir).glob("damaged-*")
        if damaged or any(aside):
            reasons = "; ".join(f"checkpoint {step}: {damage}" for step, damage in damaged.items())
            raise UserError(
                f"no checkpoint in {folder_of(self._workdir)} can be read, and nothing was changed there "
                f"({reasons or 'only damaged ones are left'}): try again, or start in another --workdir"
            )
        return None

    def _move_aside(self, damaged: dict[int, "Damaged"], good: int) -> None:
        """Out of Orbax's sight, which would keep them as the latest and delete good ones; only once another was read."""
        for step, damage in damaged.items():
            path = folder_of(self._workdir) / str(step)
            aside = path.with_name(f"damaged-{step}-{time.time_ns()}")
            try:
                path.rename(aside)
            except OSError as error:
                raise UserError(f"damaged checkpoint {path} cannot be moved aside ({error.strerror})") from error
            self._report(f"checkpoint {step} cannot be read ({damage}); moved to {aside}, falling back to {good}")

    def save(self, step: int, state: Any, record: Record, validation: float | None) -> None:
        """Starts saving in the background, after the save before is finished. Raises UserError if either failed."""
        self.wait()
        metrics = None if validation is None else {METRIC: validation}
        beside = {**record, CHECKSUMS: checksums(state)}
        with self._explained(step):
            response = self._orbax.save_async(step, state, custom_metadata=beside, metrics=metrics)
            self._saving = (step, response)

    def wait(self) -> None:
        """Returns when the last save is on disk; raises UserError if it failed."""
        if self._saving is not None:
            step, response = self._saving
            with self._explained(step):
                response.result()
            self._saving = None

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the storage layers below raise their own kinds for a full or read-only disk
            where = folder_of(self._workdir)
            raise MachineError(
                f"checkpoint {step} could not be saved in {where} ({_brief(error)}); {self.last_good()}"
            ) from error


def find_step(workdir: Path, step: int | None) -> int:
    """`step`, or the latest that was saved; UserError if there is none."""
    there = saved_steps(workdir)
    if not there or (step is not None and step not in there):
        what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise UserError(f"{what} in {folder_of(workdir)}; saved: {', '.join(map(str, there)) or 'none'}")
    return there[-1] if step is None else step


def read_parameters(workdir: Path, shapes: Any, step: int | None, part: str = "params") -> tuple[int, Any, Record]:
    """(step, parameters, record) of a run's latest readable checkpoint, or of `step`, on one device. Changes nothing.

    Args:
      part: of the state: `params`, or their `average`.

    Raises:
      UserError: there is none, it cannot be read, or its parameters have other shapes than `shapes`.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {part: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)}
    found, state, record = read_state(workdir, abstract, step)
    return found, state[part], record


def read_state(workdir: Path, abstract: Any, step: int | None) -> tuple[int, Any, Record]:
    """(step, state, record) of a run's latest readable checkpoint, or of `step`. Changes nothing.

    Args:
      abstract: the parts of the state that are wanted, with shapes, dtypes and shardings.

    Raises:
      UserError: there is none, it cannot be read, or what it holds has other shapes.
    """
    found, reasons = find_step(workdir, step), list[str]()
    for candidate in reversed(saved_steps(workdir)) if step is None else [found]:
        try:
            state, record = _read(folder_of(workdir) / str(candidate), abstract)
            for reason in reasons:
                warnings.warn(f"{reason}; using checkpoint {candidate}", stacklevel=2)
            return candidate, state, record
        except Damaged as damage:
            reasons.append(f"checkpoint {candidate} cannot be read ({damage})")
    raise UserError(f"{'; '.join(reasons)} in {folder_of(workdir)}")


def saved_fingerprint(workdir: Path, step: int) -> str:
    """The fingerprint of the config by which a checkpoint was made; UserError if it cannot be read."""
    path = folder_of(workdir) / str(step)
    try:
        with _hushed(), warnings.catch_warnings(action="ignore"):
            return str(dict(ocp.metadata(path).custom_metadata or {})["fingerprint"])
    except Exception as error:  # whatever a damaged file makes the layers below raise
        raise UserError(f"checkpoint {path} cannot be read ({_brief(error)})") from error


class Damaged(Exception):
    """A checkpoint directory that is there and cannot be read."""


def _read(path: Path, abstract: Any) -> tuple[Any, Record]:
    """The parts of the state that `abstract` names, and the record saved beside it."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with _hushed(), warnings.catch_warnings(action="ignore"), context:
            stored = ocp.metadata(path)
            if not isinstance(stored.metadata, dict):
                raise Damaged("its metadata is missing")
            _require_same_shapes(path, stored.metadata, abstract)
            state, record = ocp.load(path, abstract), dict(stored.custom_metadata or {})
        _require_same_values(state, record.pop(CHECKSUMS, {}))
        return state, record
    except (UserError, Damaged, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes the layers below raise
        raise Damaged(_brief(error)) from error


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """When a read fails, Orbax's other reads, abandoned, each print a traceback as they end; the exception says enough."""
    asyncio_log = logging.getLogger("asyncio")
    level = asyncio_log.level
    asyncio_log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                yield
            except Exception:
                gc.collect()
                time.sleep(SECONDS_UNTIL_READS_END)
                raise
    finally:
        asyncio_log.setLevel(level)


def _require_same_shapes(path: Path, stored: Any, abstract: Any) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(p, simple=True, separator="."): tuple(leaf.shape) for p, leaf in leaves}

    found, wanted = shapes({name: stored[name] for name in abstract if name in stored}), shapes(abstract)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"checkpoint {path} does not fit the config: {name} has shape {found.get(name, 'none: it is absent')} "
                f"there, {wanted.get(name, 'none: it is absent')} by the config and tokenizer"
            )


def _require_same_values(state: Any, saved: dict[str, int]) -> None:
    """What was saved by a version without checksums has none to compare."""
    changed = (
        [name for name, value in checksums(state).items() if name in saved and saved[name] != value] if saved else []
    )
    if changed:
        raise Damaged(f"{', '.join(changed[:3])} changed on the disk since it was saved: the checksum differs")


def _brief(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"
