"""What a position method is made of, and the registry of all of them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from lmarch.branches import Branch
from lmarch.content import Parameter, ReadsContent
from lmarch.errors import UserError, require
from lmarch.positions.context import PositionContext
from lmarch.positions.temperatures import TEMPERATURES, Temperature
from lmarch.registry import Registry, Variant, describe, format_variant, label, parse_variant
from lmarch.typed import typed


class ByLength(Protocol):
    """Frequencies that depend on how long the text is now."""

    def at(self, length: Any) -> Any:
        """Return inverse frequencies [..., I] at lengths [...] in tokens (integers or integer arrays, NumPy or JAX)."""
        ...


@dataclasses.dataclass(frozen=True)
class Rotation:
    """How fast channel pairs turn: the first I pairs by h(i) radians per position; further channels are left alone.

    A rotation by the position p multiplies the pair (x_i, x_{i+I}) by the rotation of angle p h(i), and by `scale`; so
    logits get scale^2. With `log_decay` (xPos) a logit's term i is multiplied by exp(log_decay_i * effective distance).
    """

    inverse_frequencies: tuple[float, ...]  # h(i), float64 [I]; for texts of up to the trained length if `by_length`
    scale: float = 1.0
    index_scale: float = 1.0  # effective distances in units of the trained index (1/factor for interpolation)
    log_decay: tuple[float, ...] | None = None  # [I], per position
    by_length: ByLength | None = None
    stepwise: bool = False  # each query turns its text for the length so far, instead of for the whole text's

    def at(self, length: Any) -> Any:
        """Return h(i) for a text of `length` tokens: [I], or [..., I] where it depends on the length."""
        if self.by_length is not None:
            return self.by_length.at(length)
        return np.asarray(self.inverse_frequencies, np.float64)


class BiasMethod(ReadsContent, Protocol):
    """An additive bias as a function of positions, and of what it reads of the tokens."""

    def bias_parameters(self, num_heads: int) -> dict[str, Parameter]:
        """Return what the bias learns, by name."""
        ...

    def bias(self, learned: Mapping[str, Any], t: Any, s: Any, num_heads: int, bidirectional: bool) -> Any:
        """Return [..., H, T, S] for broadcastable positions t [..., T, 1] of queries and s [..., 1, S] of keys.

        A method that reads content has a last argument more: the `Features` of the tokens, heads first.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Bias:
    """A bias of the logits in one layer, added after everything that scales them. Hashable."""

    method: BiasMethod
    num_heads: int
    bidirectional: bool

    def parameters(self) -> dict[str, Parameter]:
        return self.method.bias_parameters(self.num_heads)

    def __call__(self, learned: Mapping[str, Any], t: Any, s: Any, features: Any = None) -> Any:
        """Return [..., H, T, S] for broadcastable positions t [..., T, 1] of queries and s [..., 1, S] of keys.

        Args:
          features: of the method's `features`, for the same tokens, with heads first: [B, H, T, f] and [B, H, S, g].
        """
        content = (features,) if self.method.reads_content else ()
        return self.method.bias(learned, t, s, self.num_heads, self.bidirectional, *content)


class Embedding(Protocol):
    """Absolute positions: a vector added to each token's embedding, before the first layer."""

    def embedding_parameters(self, dim: int) -> dict[str, Parameter]:
        """Return what the embedding learns, by name."""
        ...

    def embed(self, learned: Mapping[str, Any], positions_BT: Any, dim: int, rms: float) -> Any:
        """Return the vectors [B, T, D] of positions; `rms` is that of a token's embedding at initialisation."""
        ...


@dataclasses.dataclass(frozen=True)
class Position:
    """A position method made concrete for one layer. Hashable."""

    branches: tuple[Branch, ...] = (Branch(),)
    rotation: Rotation | None = None  # None: nothing is rotated
    bias: Bias | None = None
    embedding: Embedding | None = None
    temperature: Temperature | None = None
    method: str = ""  # canonical, with every derived parameter spelled out: `ntk:factor=8`
    shared: bool = False  # layers with equal biases share what these learn
    bounded: bool = False  # promises effective distances below the trained length
    design_length: int | None = None  # the longest text the method is meant for; None: it makes no promise
    longest: int | None = None  # the longest text that it can compute at all
    remarks: tuple[str, ...] = ()  # what every result of it has to say

    def frequencies(self, length: int | None = None) -> np.ndarray:
        """Return h(i), float64 [I], for a text of `length` tokens (default: up to the trained length)."""
        if self.rotation is None:
            return np.zeros(0)
        return self.rotation.at(length) if length else np.asarray(self.rotation.inverse_frequencies, np.float64)


class Card(NamedTuple):
    """A row of docs/positions.md."""

    kind: str
    formula: str
    near_far: str  # what becomes of small and of large distances
    fast_slow: str  # what becomes of fast and of slow frequencies
    fine_tuning: str
    cost: str
    source: str


PlainAt = Mapping[str, Any] | None  # the parameters at which a method is plain RoPE; None: it never is


class PositionMethod(Protocol):
    """A frozen dataclass of parameters that can be made concrete."""

    card: ClassVar[Card]
    plain: ClassVar[PlainAt]
    shift_invariant: ClassVar[bool]  # adding a constant to all positions changes nothing

    def resolve(self, context: PositionContext) -> "PositionMethod":
        """Return the method with derived parameters filled in; raise UserError for impossible ones."""
        ...

    def position(self, context: PositionContext) -> Position:
        """Return what the resolved method is in a layer."""
        ...


POSITIONS: Registry[PositionMethod] = Registry("position method")


def build_position(variant: Variant, context: PositionContext) -> Position:
    """Return the Position of `ntk`, `ntk:factor=8` or `{"name": "ntk", "factor": 8}`.

    Two parameters are any method's: a `temperature`, itself a variant, as in `rerope:window=64,temperature=log_n`; and,
    where something is rotated, a `rope_base` in place of the context's, as in `yarn:factor=4,rope_base=1000000`.

    Raises:
      UserError: the method is unknown, or a parameter is unknown or impossible.
    """
    own = dict(parse_variant(variant))
    temperature, rope_base = own.pop("temperature", None), own.pop("rope_base", None)
    unresolved = POSITIONS.build(own)
    layer = context if rope_base is None else _with_base(rope_base, unresolved, context)
    method = unresolved.resolve(layer)
    position, described = method.position(layer), describe(method)
    if rope_base is not None:
        require(
            position.rotation is not None,
            f"{label(method)} rope_base",
            rope_base,
            "has nothing to rotate: leave it out",
        )
    if layer.rope_base != context.rope_base:
        described["rope_base"] = layer.rope_base
    if temperature is not None:
        factor = TEMPERATURES.build(temperature).resolve(layer)
        if label(factor) == "yarn" and position.rotation is not None and position.rotation.scale != 1:
            raise UserError(f"{label(method)} has a temperature of its own: leave temperature=yarn out")
        described["temperature"] = describe(factor)
        position = dataclasses.replace(position, temperature=factor, remarks=(*position.remarks, *factor.remarks()))
    return dataclasses.replace(position, method=format_variant(described))


def _with_base(rope_base: Any, method: PositionMethod, context: PositionContext) -> PositionContext:
    """Return the context with another base of rotary frequencies."""
    base = typed(float, rope_base, f"position method {label(method)}.rope_base")
    require(1 < base < math.inf, f"{label(method)} rope_base", base, "must be above 1 and finite")
    return dataclasses.replace(context, rope_base=base)
