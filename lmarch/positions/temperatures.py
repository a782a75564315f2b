"""Temperatures: a factor on a query's logits, before any bias is added.

n is the number of keys that the architecture lets a query see in its document (t + 1 in a causal layer, the prefix's
length at least inside a prefix, the document's length in a bidirectional layer), whatever a window then hides.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import jax.numpy as jnp

from lmarch.content import Parameter
from lmarch.errors import UserError, require
from lmarch.positions.context import PositionContext
from lmarch.registry import Registry


class Temperature(Protocol):
    """A frozen dataclass of parameters."""

    by_length: ClassVar[bool]  # whether the factor needs the length of the text

    def resolve(self, context: PositionContext) -> "Temperature":
        """Return the temperature with derived parameters filled in; raise UserError for impossible ones."""
        ...

    def parameters(self, num_heads: int) -> dict[str, Parameter]:
        """Return what the temperature learns, by name."""
        ...

    def __call__(self, n_BT: Any, length_BT: Any, learned: Mapping[str, Any]) -> Any:
        """Return the factors, floating point, [B, T] or [B, T, H].

        Args:
          n_BT: how many keys each query sees.
          length_BT: tokens of each query's text; read only if `by_length`.
          learned: the parameters, by name.
        """
        ...

    def remarks(self) -> tuple[str, ...]:
        """Return what every result of the temperature has to say."""
        ...


TEMPERATURES: Registry[Temperature] = Registry("temperature")


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The base class of temperatures that learn nothing and derive nothing."""

    by_length: ClassVar[bool] = False

    def resolve(self, context: PositionContext) -> Any:
        return self

    def parameters(self, num_heads: int) -> dict[str, Parameter]:
        return {}

    def remarks(self) -> tuple[str, ...]:
        return ()


@TEMPERATURES.register("log_n")
@dataclasses.dataclass(frozen=True)
class LogN(Fixed):
    """ln n / ln L, which keeps the entropy of attention steady as keys are added (Su 2021, kexue.fm 8823).

    `post_hoc` takes max(1, ln n / ln L), for a model trained without it; `trained` is the formula as it stands, whose
    first query (n = 1, factor 0) sees one key only and loses nothing. ReRoPE's released code always applies `post_hoc`.
    """

    form: Literal["post_hoc", "trained"] = "post_hoc"
    length: int | None = None  # L; none: the trained length

    def resolve(self, context: PositionContext) -> "LogN":
        length = context.trained_length if self.length is None else self.length
        if length < 2:
            raise UserError(f"temperature log_n needs a trained length of 2 or more, got {length}: ln(1) is 0")
        return dataclasses.replace(self, length=length)

    def __call__(self, n_BT: Any, length_BT: Any, learned: Mapping[str, Any]) -> Any:
        assert self.length is not None
        full = jnp.log(n_BT) / math.log(self.length)
        return full if self.form == "trained" else jnp.maximum(full, 1.0)


@TEMPERATURES.register("yarn")
@dataclasses.dataclass(frozen=True)
class YarnTemperature(Fixed):
    """(0.1 ln factor + 1)^2, a constant (Peng et al. 2023, arXiv 2309.00071); `yarn` itself has it built in."""

    factor: float | None = None  # none: target length / trained length

    def resolve(self, context: PositionContext) -> "YarnTemperature":
        factor = context.stretch if self.factor is None else self.factor
        rule = "must be 1 or more: it is target / trained length"
        require(1 <= factor < math.inf, "temperature yarn factor", f"{factor:g}", rule)
        return dataclasses.replace(self, factor=factor)

    def __call__(self, n_BT: Any, length_BT: Any, learned: Mapping[str, Any]) -> Any:
        assert self.factor is not None
        return jnp.full_like(n_BT, (0.1 * math.log(self.factor) + 1) ** 2)


@TEMPERATURES.register("dual_chunk")
@dataclasses.dataclass(frozen=True)
class DualChunkTemperature(Fixed):
    """(0.05 ln(T/L) + 1)^2 for a text of T > L tokens, else 1: what ChunkLlama's code does and its paper does not."""

    by_length: ClassVar[bool] = True
    length: int | None = None  # L; none: the trained length

    def resolve(self, context: PositionContext) -> "DualChunkTemperature":
        length = context.trained_length if self.length is None else self.length
        require(length >= 1, "temperature dual_chunk length", length, "must be 1 or more")
        return dataclasses.replace(self, length=length)

    def __call__(self, n_BT: Any, length_BT: Any, learned: Mapping[str, Any]) -> Any:
        return (0.05 * jnp.log(jnp.maximum(length_BT / self.length, 1.0)) + 1) ** 2

    def remarks(self) -> tuple[str, ...]:
        return ("the dual_chunk temperature of every row depends on the length of the whole text",)


@TEMPERATURES.register("llama4")
@dataclasses.dataclass(frozen=True)
class Llama4Temperature(Fixed):
    """1 + scale ln(1 + floor(n / floor_scale)): Llama 4's, on its layers without rotation."""

    floor_scale: int = 8192
    scale: float = 0.1

    def __post_init__(self) -> None:
        require(self.floor_scale >= 1, "temperature llama4 floor_scale", self.floor_scale, "must be 1 or more")
        require(self.scale >= 0, "temperature llama4 scale", self.scale, "must not be negative")

    def __call__(self, n_BT: Any, length_BT: Any, learned: Mapping[str, Any]) -> Any:
        return jnp.log1p(jnp.floor(n_BT / self.floor_scale)) * self.scale + 1


@TEMPERATURES.register("ssmax")
@dataclasses.dataclass(frozen=True)
class ScalableSoftmax(Fixed):
    """s ln n with a learned s per head and layer (Nakanishi 2025, arXiv 2501.19399); at n = 1 there is one key only."""

    init: float = 0.43  # of s, as in released ports

    def parameters(self, num_heads: int) -> dict[str, Parameter]:
        return {"ssmax_scale": Parameter((num_heads,), ("heads",), lambda key: jnp.full(num_heads, self.init))}

    def __call__(self, n_BT: Any, length_BT: Any, learned: Mapping[str, Any]) -> Any:
        return jnp.log(n_BT)[..., None] * learned["ssmax_scale"][None, None]
