"""`config.train`: how long, and how."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lmarch.config.fields import ADDED, OPERATIONAL, SPEED, require_positive
from lmarch.errors import UserError, require


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how. Every duration is given in steps or in tokens, never in both."""

    steps: int | None = None  # the run's length in optimizer steps; this or tokens must be given
    tokens: int | None = None  # the run's length in tokens of rows, rounded up to whole steps
    warmup_steps: int | None = None  # the learning rate rises from 0 for so long
    warmup_tokens: int | None = None  # the same in tokens
    # The last part of schedule `wsd`, in which the rate falls; the other schedules have none.
    decay_steps: int | None = None
    decay_tokens: int | None = None  # the same in tokens
    eval_steps: int | None = None  # validation every so often; none: only at the end
    eval_tokens: int | None = None  # the same in tokens
    # A checkpoint every so often; none: only at the end.
    checkpoint_steps: int | None = dataclasses.field(default=None, metadata=OPERATIONAL)
    checkpoint_tokens: int | None = dataclasses.field(default=None, metadata=OPERATIONAL)  # the same in tokens
    log_steps: int = dataclasses.field(default=10, metadata=OPERATIONAL)  # metrics are logged every so often
    # The latest so many are kept, and the best.
    keep_checkpoints: int = dataclasses.field(default=2, metadata=OPERATIONAL)
    # AdamW, adafactor, lion or muon with its parameters (docs/optimizers.md).
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "adamw"})
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"  # of the learning rate after the warm-up
    learning_rate: float = 3e-3  # its peak, after the warm-up
    final_fraction: float = 0.1  # where the schedule is heading: learning_rate * final_fraction after the last step
    clip_norm: float | None = 1.0  # gradients are scaled down to this global norm; none: as they are
    z_loss: float = 0.0  # weight of mean(logsumexp(logits)^2) in the loss
    # A step whose gradient norm is so many times the running mean of norms leaves the weights as they are.
    skip_spikes: float | None = dataclasses.field(default=None, metadata=ADDED)
    # Keeps an exponential moving average of the weights, by so much of the average a step; validated beside them.
    average_decay: float | None = dataclasses.field(default=None, metadata=ADDED)
    # Micro-batches a step, one after the other, of which gradients are added.
    accumulate: int = dataclasses.field(default=1, metadata=SPEED)
    eval_rows: int = 1024  # validation rows scored during training, by which sweeps select
    # A run whose last weights are where this one starts: fine-tuning. Its rows may then be longer than the trained length.
    # RUN is its folder, RUN@STEP one of its checkpoints.
    start_from: str | None = dataclasses.field(default=None, metadata=ADDED)
    # Which run and step that is, FINGERPRINT@STEP; filled in when training starts.
    start_fingerprint: str | None = dataclasses.field(default=None, metadata=ADDED)
    # RUN or RUN@STEP whose first steps are this run's too: it goes on from there with another length, decay or position.
    branch_from: str | None = dataclasses.field(default=None, metadata=OPERATIONAL)
    # Contexts of so many other rows join the memory of `knn` layers (Focused Transformer); not scored so.
    cross_batch: int = 0
    # From a step on, the model has another position: ({"step": 900, "position": "nope"},) drops the encoding (DroPE).
    position_schedule: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        where = "config.train"
        names = [field.name for field in dataclasses.fields(self) if field.name.endswith(("steps", "tokens"))]
        require_positive(self, where, *(name for name in names if not name.startswith("warmup")))
        for name in ("warmup_steps", "warmup_tokens"):
            require((getattr(self, name) or 0) >= 0, f"{where}.{name}", getattr(self, name), "must not be negative")
        if self.schedule == "wsd" and not (self.decay_steps or self.decay_tokens):
            raise UserError("config.train.schedule='wsd' needs a decay: set config.train.decay_steps or decay_tokens")
        require_positive(self, where, "keep_checkpoints", "learning_rate", "clip_norm", "accumulate", "eval_rows")
        for name in ("warmup", "decay", "eval", "checkpoint", ""):
            steps, tokens = (f"{name}_{unit}".lstrip("_") for unit in ("steps", "tokens"))
            if getattr(self, steps) is not None and getattr(self, tokens) is not None:
                given = f"{steps}={getattr(self, steps)} and {tokens}={getattr(self, tokens)}"
                raise UserError(f"config.train has both {given}: keep one and set the other to none")
        if self.steps is None and self.tokens is None:
            raise UserError("config.train needs a length: set config.train.steps or config.train.tokens")
        if self.start_fingerprint is not None and self.start_from is None:
            raise UserError(
                f"config.train.start_fingerprint={self.start_fingerprint} belongs to a start_from: set that"
            )
        require((self.skip_spikes or 2.0) > 1, f"{where}.skip_spikes", self.skip_spikes, "must be above 1")
        ok = self.average_decay is None or 0 < self.average_decay < 1
        require(ok, f"{where}.average_decay", self.average_decay, "must be between 0 and 1, such as 0.999")
        require(0 <= self.final_fraction <= 1, f"{where}.final_fraction", self.final_fraction, "must be in [0, 1]")
        require(self.z_loss >= 0, f"{where}.z_loss", self.z_loss, "must not be negative")
        if self.schedule != "wsd" and (self.decay_steps or self.decay_tokens):
            raise UserError(f"config.train.decay_* belongs to schedule='wsd', but schedule={self.schedule!r}")
