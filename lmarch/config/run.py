"""The groups of a config together: what they require of one another, what follows from them, and their fingerprint."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmarch.config.data import DataConfig
from lmarch.config.evaluation import EvalConfig
from lmarch.config.fields import OPERATIONAL
from lmarch.config.mesh import MeshConfig
from lmarch.config.model import ModelConfig
from lmarch.config.training import TrainConfig
from lmarch.errors import UserError, require
from lmarch.registry import parse_variant


@dataclasses.dataclass(frozen=True)
class Config:
    train: TrainConfig
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig, metadata=OPERATIONAL)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        if self.row_length > self._first_trained_length and not self._fine_tunes_longer:
            name = "encoder.trained_length" if self.model.encoder.trained_length else "trained_length"
            raise UserError(
                f"config.data.row_length={self.row_length} trains past config.model.{name}="
                f"{self._first_trained_length}: raise the trained length, which is the longest row seen in training (or, to "
                "fine-tune, give train.start_from and a model.target_length as long)"
            )
        ok = self.data.target_length is None or self.model.architecture == "encoder_decoder"
        require(ok, "config.data.target_length", self.data.target_length, "belongs to architecture='encoder_decoder'")
        rows, parts = self.data.batch_rows, self.train.accumulate
        require(rows % parts == 0, "config.data.batch_rows", rows, f"must be a multiple of train.accumulate={parts}")
        total = self.steps("")
        assert total is not None  # TrainConfig refuses a run without a length
        self._check_cross_batch()
        before = 0
        for index, phase in enumerate(self.train.position_schedule):
            where = f"config.train.position_schedule[{index}]"
            require(phase.keys() == {"step", "position"}, where, dict(phase), "must give `step` and `position`")
            step = phase["step"]
            ok = isinstance(step, int) and before < step < total
            require(ok, f"{where}.step", step, f"must be a step between {before} and the run's last, {total}")
            before = step
        ramp = (self.steps("warmup") or 0) + (self.steps("decay") or 0)
        if ramp > total:
            raise UserError(f"warm-up and decay take {ramp} steps, more than the run's {total}: shorten them")

    @property
    def row_length(self) -> int:
        return self.data.row_length or self._first_trained_length

    @property
    def _first_trained_length(self) -> int:
        """Of what reads a row first: the encoder, or the one stack there is."""
        return self.model.encoder.trained_length or self.model.trained_length

    @property
    def _fine_tunes_longer(self) -> bool:
        """The trained length is then that of the run it starts from, and methods are stretched to `target_length`."""
        return self.train.start_from is not None and self.row_length <= (self.model.target_length or 0)

    @property
    def objective(self) -> Mapping[str, Any]:
        plain = "causal_lm" if self.model.architecture == "causal_decoder" else "prefix_lm"
        return self.data.objective or {"name": plain}

    @property
    def tokens_per_step(self) -> int:
        return self.data.batch_rows * self.row_length

    def steps(self, name: str) -> int | None:
        """The duration `name` (`warmup`, `decay`, `eval`, `checkpoint`, or "" for the run) in steps; none if not set.

        Tokens are rounded up to whole steps.
        """
        prefix = f"{name}_" if name else ""
        steps, tokens = getattr(self.train, prefix + "steps"), getattr(self.train, prefix + "tokens")
        return steps if tokens is None else -(-tokens // self.tokens_per_step)

    def model_at(self, step: int) -> ModelConfig:
        """The model that step number `step` (from 1 on) trains, or that a checkpoint of that number holds."""
        reached = [phase for phase in self.train.position_schedule if phase["step"] < step]
        if not reached:
            return self.model
        return dataclasses.replace(self.model, position=dict(parse_variant(reached[-1]["position"])))

    def _check_cross_batch(self) -> None:
        where, count = "config.train.cross_batch", self.train.cross_batch
        require(
            0 <= count < self.data.batch_rows, where, count, f"must be in [0, data.batch_rows={self.data.batch_rows})"
        )
        if count:
            names = [
                layer["selection"] and parse_variant(layer["selection"])["name"] for layer in self.model.each_layer
            ]
            require("knn" in names, where, count, "needs layers with selection='knn', whose memory it is about")
            rule = (
                f"needs train.accumulate=1, not {self.train.accumulate}: a micro-batch has other rows beside each row"
            )
            require(self.train.accumulate == 1, where, count, rule)

    @property
    def total_steps(self) -> int:
        steps = self.steps("")
        assert steps is not None
        return steps

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """Twelve hex digits over every field that changes what is computed, as it is written (`none` is not its value)."""
        return digest(self.meaningful())

    def meaningful(self, speed: bool = False) -> dict[str, Any]:
        """The fields that change what is computed, nested.

        A run to start from counts by what it is, wherever it lies; by its folder's name as long as that is not known.

        Args:
          speed: also what changes speed or memory alone, as it is.
        """
        made = _meaningful(self, speed)
        if self.train.start_from is not None:
            which = made["train"].pop("start_fingerprint", None)
            made["train"]["start_from"] = which or Path(self.train.start_from).name
        return made


DATA_SEEDS = 1000


def seeds_of(number: int) -> dict[str, int]:
    """The seed fields of run `number` of several: its first weights and the order of its data are drawn apart."""
    return {"model.seed": number, "data.seed": DATA_SEEDS + number}


def digest(value: Any) -> str:
    """A short stable hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _meaningful(group: Any, speed: bool) -> dict[str, Any]:
    fields = [f for f in dataclasses.fields(group) if not f.metadata.get("operational")]
    values = {f.name: f.default if f.metadata.get("speed") and not speed else getattr(group, f.name) for f in fields}
    for field in fields:
        if field.metadata.get("added") and values[field.name] == field.default:
            del values[field.name]
    return {name: _meaningful(v, speed) if dataclasses.is_dataclass(v) else v for name, v in values.items()}
