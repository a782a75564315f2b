"""Optimizers and learning-rate schedules, by name."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
import optax
from optax import contrib

from lmarch.config import Config, TrainConfig
from lmarch.errors import UserError
from lmarch.registry import Registry, label

Schedule = Callable[[Any], Any]


class Rates(NamedTuple):
    """How far steps go, float32: data of the compiled step, as its batch is, so that all trials of a sweep share one."""

    learning_rate: Any  # scalar, or [S] of several steps
    weight_decay: Any  # times the learning rate, what a decayed parameter loses a step

    def at(self, step: int) -> "Rates":
        """Return the rates of one of several steps."""
        return Rates(*(rate_S[step] for rate_S in self))

    def slower(self, ratio: float) -> "Rates":
        """Return rates with a learning rate divided by `ratio`, and the same weight decay a step."""
        return Rates(self.learning_rate / ratio, self.weight_decay * ratio)

    def schedule(self, step: Any) -> Any:
        """Return the learning rate, whatever the step: what takes a schedule goes on counting, as in earlier checkpoints."""
        return self.learning_rate


class Kind(NamedTuple):
    """What a parameter is to an optimizer."""

    decayed: bool  # weight decay applies: matrices and embeddings, not norm scales, biases and biases by distance
    hidden: bool  # a matrix from states to states, whose two sides grow with the width
    inputs: tuple[int, ...] = ()  # dimensions of a hidden matrix that it reads, and those that it writes
    outputs: tuple[int, ...] = ()


class Optimizer(Protocol):
    """A frozen dataclass of parameters."""

    # In models wider than `model.base_dim`, the rate of hidden matrices is divided by the ratio of widths to this power.
    width_exponent: ClassVar[float]

    @property
    def weight_decay(self) -> float:
        """The share that a decayed parameter loses a step, divided by the learning rate."""
        ...

    def transform(self, rates: Rates, kinds: Any) -> optax.GradientTransformation:
        """Return the transformation of one step's gradients into updates.

        Args:
          rates: of that step; its weight decay in place of the optimizer's own.
          kinds: a tree of Kind, like the parameters.
        """
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
    width_exponent: ClassVar[float] = 1.0  # an entry moves by the rate whatever the width

    def __post_init__(self) -> None:
        _check(self, "b1", "b2")

    def transform(self, rates: Rates, kinds: Any) -> optax.GradientTransformation:
        decay = {"weight_decay": rates.weight_decay, "mask": _decayed(kinds)}
        return optax.adamw(rates.schedule, self.b1, self.b2, self.eps, **decay)


@OPTIMIZERS.register("adafactor")
@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Second moments by row and column, no first one; steps relative to a parameter's size (Shazeer and Stern 2018).

    Its memory is the parameters' and little more. Weight decay is decoupled as in AdamW.
    """

    decay: float = 0.8  # exponent of the step number in the moment's decay
    clip: float | None = 1.0  # of an update's root mean square
    weight_decay: float = 0.0
    width_exponent: ClassVar[float] = 0.5  # a step is relative to entries, which shrink with the root of the width

    def __post_init__(self) -> None:
        _check(self)

    def transform(self, rates: Rates, kinds: Any) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(rates.weight_decay, _decayed(kinds))
        descent = optax.adafactor(None, decay_rate=self.decay, clipping_threshold=self.clip)  # its updates have a minus
        return optax.chain(descent, optax.scale(-1.0), decay, optax.scale_by_learning_rate(rates.schedule))


@OPTIMIZERS.register("lion")
@dataclasses.dataclass(frozen=True)
class Lion:
    """The sign of a momentum (Chen et al. 2023, arXiv 2302.06675): rates a third to a tenth of AdamW's, decay as much more."""

    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.3
    width_exponent: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _check(self, "b1", "b2")

    def transform(self, rates: Rates, kinds: Any) -> optax.GradientTransformation:
        return optax.lion(rates.schedule, self.b1, self.b2, weight_decay=rates.weight_decay, mask=_decayed(kinds))


@OPTIMIZERS.register("muon")
@dataclasses.dataclass(frozen=True)
class Muon:
    """Momentum made orthogonal by Newton-Schulz steps, for hidden matrices; AdamW for all else (Jordan et al. 2024).

    A member of the Shampoo family: Shampoo without accumulation. The two sides have rates of their own: `learning_rate` of
    the config is AdamW's, and `rate` times as much is Muon's, whose updates have the root mean square 0.2 of AdamW's (Liu et
    al. 2025, arXiv 2502.16982), so that 1 is a fair start. A layer's heads count as one matrix.
    """

    rate: float = 1.0
    momentum: float = 0.95
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1
    width_exponent: ClassVar[float] = 1.0  # by `consistent_rms` its updates are as large as AdamW's

    def __post_init__(self) -> None:
        _check(self, "b1", "b2", "momentum")
        if self.rate <= 0:
            raise UserError(f"optimizer muon rate={self.rate} must be above 0")

    def transform(self, rates: Rates, kinds: Any) -> optax.GradientTransformation:
        sides = _tree(
            lambda kind: contrib.MuonDimensionNumbers(kind.inputs, kind.outputs) if kind.hidden else None, kinds
        )
        of_hidden = contrib.muon(
            lambda step: self.rate * rates.learning_rate,
            beta=self.momentum,
            weight_decay=rates.weight_decay,
            muon_weight_dimension_numbers=lambda params: sides,
            consistent_rms=0.2,
        )
        # Not optax's own Adam beside it, which has Nesterov's momentum and decays norms as it decays embeddings.
        others = AdamW(self.b1, self.b2).transform(rates, _only(kinds, hidden=False))
        return optax.partition({"hidden": of_hidden, "other": others}, _sides(kinds))


def _check(optimizer: Any, *shares: str) -> None:
    name = label(optimizer)
    for field in shares:
        if not 0 <= getattr(optimizer, field) < 1:
            raise UserError(f"optimizer {name} {field}={getattr(optimizer, field)} must be in [0, 1)")
    for field in {"eps", "weight_decay", "clip"} & {field.name for field in dataclasses.fields(optimizer)}:
        value = getattr(optimizer, field)
        if value is not None and (value < 0 or (field != "weight_decay" and value == 0)):
            raise UserError(
                f"optimizer {name} {field}={value} must {'not be negative' if field == 'weight_decay' else 'be above 0'}"
            )


def _tree(of: Callable[[Kind], Any], kinds: Any) -> Any:
    return jax.tree.map(of, kinds, is_leaf=lambda x: isinstance(x, Kind))


def _decayed(kinds: Any) -> Any:
    return _tree(lambda kind: kind.decayed, kinds)


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
    """Return the schedule from the step's number, which begins at 0, to the learning rate.

    Warm-up is linear, and the first step already moves: step n has the share (n + 1) / (warmup + 1) of the peak.
    """
    warmup, decay, peak = config.steps("warmup") or 0, config.steps("decay") or 0, config.train.learning_rate
    after = SCHEDULES[config.train.schedule](config.train, warmup, decay, config.total_steps)
    return optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup])


def first_rates(config: Config, steps: int) -> Rates:
    """Return the rates of a run's first so many steps, NumPy arrays [S].

    After the last step of the run the learning rate stays where it is.
    """
    schedule = jax.jit(jax.vmap(learning_rate_schedule(config)))
    rate_S = np.asarray(schedule(np.arange(steps, dtype=np.int32)))
    return Rates(rate_S, np.full_like(rate_S, OPTIMIZERS.build(config.train.optimizer).weight_decay))


def make_optimizer(config: Config, axes: Any, rates: Rates) -> optax.GradientTransformation:
    """Return clipping followed by the optimizer that the config names.

    Hidden matrices of a model wider than its base have a lower learning rate, and lose as large a share to weight decay as
    all others (Yang et al. 2022, arXiv 2203.03466).

    Args:
      axes: the parameters' logical axis names.
      rates: of one step. What the optimizer keeps has the same structure whatever they are.
    """
    kinds = jax.tree.map(kind_of, axes, is_leaf=lambda x: isinstance(x, tuple))
    optimizer = OPTIMIZERS.build(config.train.optimizer)
    clip = optax.identity() if config.train.clip_norm is None else optax.clip_by_global_norm(config.train.clip_norm)
    if config.model.base_dim is None:
        return optax.chain(clip, optimizer.transform(rates, kinds))
    ratio = config.model.width_ratio**optimizer.width_exponent
    sides = {
        "hidden": optimizer.transform(rates.slower(ratio), _only(kinds, hidden=True)),
        "other": optimizer.transform(rates, _only(kinds, hidden=False)),
    }
    return optax.chain(clip, optax.partition(sides, _sides(kinds)))


def _sides(kinds: Any) -> Any:
    return _tree(lambda kind: "hidden" if kind.hidden else "other", kinds)


def _only(kinds: Any, hidden: bool) -> Any:
    """Return the kinds of one side of a partition, as that side sees the parameters."""
    return _tree(lambda kind: kind if kind.hidden == hidden else optax.MaskedNode(), kinds)


OF_BIASES = {"buckets", "mlp_bias"}  # axes that only biases by distance have


def kind_of(names: tuple[str, ...]) -> Kind:
    """Return what a parameter with these axis names is. Heads and their channels are one side of a matrix, layers none."""
    if OF_BIASES & set(names):
        return Kind(decayed=False, hidden=False)
    one_side = {"kv_heads": "heads", "head_dim": "heads"}
    sides = [
        (side, tuple(dimension for dimension, _ in group))
        for side, group in itertools.groupby(enumerate(names), lambda at: one_side.get(at[1], at[1]))
        if side != "layers"
    ]
    if len(sides) != 2:
        return Kind(decayed=len(sides) > 1, hidden=False)
    (reads, inputs), (writes, outputs) = sides
    hidden = {reads, writes} <= {"embed", "heads", "mlp"}
    return Kind(True, hidden, inputs, outputs) if hidden else Kind(decayed=True, hidden=False)
