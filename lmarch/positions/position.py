"""What a position method is made of, and the registry of all of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from lmarch.branches import Branch
from lmarch.errors import UserError
from lmarch.registry import Registry, format_variant, parameters, variant_name


@dataclasses.dataclass(frozen=True)
class PositionContext:
    """What a method may depend on. `trained_length` (L) and `target_length` (L') are never inferred from each other."""

    head_dim: int  # K, even wherever something is rotated
    rope_base: float
    trained_length: int
    target_length: int

    @property
    def stretch(self) -> float:
        """L' / L, the default factor of every method that has one."""
        return self.target_length / self.trained_length


@dataclasses.dataclass(frozen=True)
class Position:
    """A method made concrete: what to rotate by, and where.

    `inverse_frequencies` h(i), radians per position, float64 [K/2]; None: nothing is rotated. A rotation by the
    effective distance p multiplies channel pair (i, i + K/2) by the rotation of angle p h(i), and queries and keys
    by `scale` each, so logits by scale^2.
    """

    method: str  # canonical, with every derived parameter spelled out: `ntk:factor=8.0`
    branches: tuple[Branch, ...]
    inverse_frequencies: tuple[float, ...] | None
    scale: float = 1.0
    index_scale: float = 1.0  # effective distances in units of the trained index (1/factor for interpolation)
    needs_order_from_mask: bool = False  # nothing but a causal mask tells positions apart
    design_length: int | None = None  # the longest length the method is meant for; None: it makes no promise

    def frequencies(self) -> np.ndarray:
        return np.asarray(self.inverse_frequencies, np.float64)

    def out_of_design(self, length: int) -> str | None:
        """Why a result at `length` lies outside the method's design range, or None."""
        if self.design_length is None or length <= self.design_length:
            return None
        return f"{self.method} is stretched for {self.design_length} tokens and is used at {length}"


class PositionMethod(Protocol):
    """A frozen dataclass of parameters that can be made concrete."""

    def position(self, name: str, context: PositionContext) -> Position: ...


POSITIONS: Registry[PositionMethod] = Registry("position method")


def build_position(variant: str | Mapping[str, Any], context: PositionContext) -> Position:
    """The Position of `ntk`, `ntk:factor=8` or `{"name": "ntk", "factor": 8}`; raises UserError for a bad one."""
    return POSITIONS.build(variant).position(variant_name(variant), context)


def canonical(name: str, method: Any) -> str:
    return format_variant({"name": name, **{k: v for k, v in parameters(method).items() if v is not None}})


def require_even(context: PositionContext, name: str) -> None:
    if context.head_dim % 2:
        raise UserError(f"{name} rotates channel pairs, but the head size is {context.head_dim}: make it even")
