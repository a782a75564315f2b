"""Optimizers and learning-rate schedules, by name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import optax

from lmarch.config import Config, TrainConfig
from lmarch.errors import UserError
from lmarch.registry import Registry

Schedule = Callable[[Any], Any]


class Optimizer(Protocol):
    def transform(self, schedule: Schedule, decayed: Any) -> optax.GradientTransformation:
        """`decayed`: a tree of bools, true for the parameters that weight decay applies to."""
        ...


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")


@OPTIMIZERS.register("adamw")
@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): each step takes learning_rate * weight_decay * w."""

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer adamw {name}={getattr(self, name)} must be in [0, 1)")
        if not (self.eps > 0 and self.weight_decay >= 0):
            raise UserError(f"optimizer adamw eps={self.eps} and weight_decay={self.weight_decay} must not be negative")

    def transform(self, schedule: Schedule, decayed: Any) -> optax.GradientTransformation:
        return optax.adamw(schedule, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=decayed)


def _cosine(train: TrainConfig, warmup: int, decay: int, total: int) -> Schedule:
    return optax.cosine_decay_schedule(train.learning_rate, max(1, total - warmup), train.final_fraction)


def _warmup_stable_decay(train: TrainConfig, warmup: int, decay: int, total: int) -> Schedule:
    stable = optax.constant_schedule(train.learning_rate)
    fall = optax.linear_schedule(train.learning_rate, train.learning_rate * train.final_fraction, max(1, decay))
    return optax.join_schedules([stable, fall], [total - warmup - decay])


def _constant(train: TrainConfig, warmup: int, decay: int, total: int) -> Schedule:
    return optax.constant_schedule(train.learning_rate)


SCHEDULES: Mapping[str, Callable[[TrainConfig, int, int, int], Schedule]] = {
    "cosine": _cosine,
    "wsd": _warmup_stable_decay,
    "constant": _constant,
}


def learning_rate_schedule(config: Config) -> Schedule:
    """step (from 0) -> learning rate. Warm-up is linear and step 0 already moves: (step + 1) / (warmup + 1) of the peak."""
    warmup, decay, peak = config.steps("warmup") or 0, config.steps("decay") or 0, config.train.learning_rate
    after = SCHEDULES[config.train.schedule](config.train, warmup, decay, config.total_steps)
    return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup])


def make_optimizer(config: Config, axes: Any) -> optax.GradientTransformation:
    """Clipping, then the named optimizer. Weight decay applies to matrices and embeddings, not to norm scales and biases.

    Args:
      axes: the parameters' logical axis names; one with two of them is a matrix, heads and their channels being one axis.
    """

    def is_matrix(names: tuple[str, ...]) -> bool:
        one_axis = {"kv_heads": "heads", "head_dim": "heads"}
        return len({one_axis.get(name, name) for name in names} - {"layers"}) > 1

    decayed = jax.tree.map(is_matrix, axes, is_leaf=lambda x: isinstance(x, tuple))
    optimizer = OPTIMIZERS.build(config.train.optimizer).transform(learning_rate_schedule(config), decayed)
    clip = optax.identity() if config.train.clip_norm is None else optax.clip_by_global_norm(config.train.clip_norm)
    return optax.chain(clip, optimizer)
