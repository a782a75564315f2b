"""What is swept: a resolved config, a space over it, and how trials are judged. Lies in WORKDIR/sweep.json."""

import copy
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmarch.config import Config, digest, from_dict, seeds_of
from lmarch.config_files import override
from lmarch.durable import write_json
from lmarch.errors import UserError
from lmarch.evaluation.asked import check_before_training
from lmarch.sweeping.space import SEED, Point, Space
from lmarch.training.parent import with_parent
from lmarch.training.setup import check_without_text

RULE = "lowest bits per byte of validation text at the trained length, after the last step; with seeds, their mean"
PRUNERS = ("none", "median", "hyperband")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Trials are numbered in the order of the space's points, those that are drawn of one point together."""

    base: Mapping[str, Any]  # a config, as a tree
    space: Space
    pruner: str = "none"
    suite: str | None = "smoke"  # of the evaluation after training; none: no evaluation
    storage: str | None = None  # a database's address; none: a file in the workdir
    study: str | None = None  # its name there, from when the sweep began on

    def __post_init__(self) -> None:
        if self.pruner not in PRUNERS:
            raise UserError(f"--pruner={self.pruner} is not one of {', '.join(PRUNERS)}")

    @property
    def size(self) -> int:
        return self.space.size

    @property
    def where(self) -> str:
        """Where the study lies, without a password."""
        return without_password(self.storage) if self.storage else "a file"

    def point(self, number: int) -> Point:
        """What is known of a trial before it begins."""
        return self.space.points[number // max(1, self.space.trials)]

    def config(self, point: Point) -> Config:
        """Raises UserError for a field that there is not, a value that it cannot have, a base that is not there."""
        tree = copy.deepcopy(dict(self.base))
        if "train.start_from" in point:
            tree["train"]["start_fingerprint"] = None  # of the base of the others
        for field, value in point.items():
            fields = seeds_of(value) if field == SEED else {field: value}
            for name, given in fields.items():
                override(tree, name, given if isinstance(given, str) else repr(given))
        return with_parent(from_dict(tree))

    def check(self) -> None:
        """Builds every trial's config, and what of a model can be built without text; UserError names the trial."""
        drawn, seen, measurable = self.space.drawn, dict[str, str](), set[str]()
        ends = [dict.fromkeys(drawn)] if not drawn else []
        for place in range(max((len(one.ends) for one in drawn.values()), default=0)):
            ends.append({field: one.ends[min(place, len(one.ends) - 1)] for field, one in drawn.items()})
        for point in self.space.points:
            for drawing in ends:
                whole = {**point, **drawing}
                try:
                    config = self.config(whole)
                    self._check(config)
                    evaluated = digest([config.model, config.data, config.eval])
                    if self.suite is not None and evaluated not in measurable:
                        check_before_training(config)
                    measurable.add(evaluated)
                except UserError as error:
                    raise UserError(f"{describe(whole)}: {error}") from error
                same = seen.setdefault(config.fingerprint(), describe(whole)) if not drawn else describe(whole)
                if same != describe(whole):
                    raise UserError(
                        f"{describe(whole)} is the same run as {same}: what differs changes speed or memory alone"
                    )

    def _check(self, config: Config) -> None:
        check_without_text(config)
        if self.pruner != "none" and (config.steps("eval") or config.total_steps) >= config.total_steps:
            raise UserError(
                f"--pruner={self.pruner} needs config.train.eval_steps below the {config.total_steps} steps of training: "
                "trials are judged by validation on their way"
            )

    @property
    def fingerprint(self) -> str:
        """Of all that decides which trials there are; the same whatever fields a version of lmarch has added."""
        base = from_dict(self.base)
        made = {**base.meaningful(speed=True), "eval": dataclasses.asdict(base.eval)}
        return digest({"base": made, "space": self.space.to_json(), "pruner": self.pruner, "suite": self.suite})


def describe(point: Point) -> str:
    """`model.dim=64 seed=1`: what a trial is called in messages and tables."""
    return " ".join(f"{field}={short(value)}" for field, value in point.items()) or "the config as it is"


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def without_password(address: str) -> str:
    """`postgresql://user:…@host/name`"""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:…@", address)


def write_plan(workdir: Path, plan: Plan) -> None:
    tree = {**dataclasses.asdict(plan), "space": plan.space.to_json(), "rule": RULE, "fingerprint": plan.fingerprint}
    write_json(workdir / "sweep.json", tree)


def read_plan(workdir: Path) -> Plan:
    """Raises UserError where there is no sweep."""
    file = workdir / "sweep.json"
    if not file.is_file():
        raise UserError(
            f"no sweep in {str(workdir)!r}: it has no sweep.json (start one with lmarch sweep --config --space)"
        )
    tree = json.loads(file.read_text())
    space = Space.from_json(tree["space"])
    return Plan(tree["base"], space, tree["pruner"], tree["suite"], tree["storage"], tree["study"])
