"""No encoding, and absolute positions: a vector added to each token's embedding. Nothing is rotated."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.content import Parameter
from lmarch.errors import UserError, require
from lmarch.positions.context import PositionContext
from lmarch.positions.position import POSITIONS, Card, PlainAt, Position


@POSITIONS.register("nope")
@dataclasses.dataclass(frozen=True)
class Nope:
    """No encoding: a causal mask alone tells positions apart (Haviv et al. 2022; Kazemnejad et al. 2023).

    A bidirectional layer without positions sees a bag of words and refuses it; a prefix decoder sees its prefix as one.
    """

    plain: ClassVar[PlainAt] = None
    shift_invariant: ClassVar[bool] = True
    card: ClassVar = Card(
        "none",
        "nothing",
        "all alike",
        "nothing is rotated",
        "train with it, or drop RoPE late (DroPE)",
        "less than RoPE",
        "Kazemnejad et al. 2023, arXiv 2305.19466; DroPE: arXiv 2512.12167",
    )

    def resolve(self, context: PositionContext) -> "Nope":
        if context.mask_kind == "bidirectional":
            raise UserError("nope sees a bag of words where attention is bidirectional: choose a method with positions")
        return self

    def position(self, context: PositionContext) -> Position:
        unordered = ("nope leaves the tokens of a prefix without order",)
        return Position(remarks=unordered if context.mask_kind == "prefix" else ())


@POSITIONS.register("sinusoidal")
@dataclasses.dataclass(frozen=True)
class Sinusoidal:
    """[sin(p θ_i), cos(p θ_i)] added to the embedding, θ_i = base^(-2i/D) (Vaswani et al. 2017, section 3.5).

    Its root mean square is that of the token embeddings at initialisation times `scale`, as in the paper, where both
    are about 1. Sines and cosines are in two halves instead of alternating: the same up to an order of channels.
    """

    base: float = 10_000.0
    scale: float = 1.0
    plain: ClassVar[PlainAt] = None
    shift_invariant: ClassVar[bool] = False
    card: ClassVar = Card(
        "absolute",
        "x_p + [sin pθ_i, cos pθ_i]",
        "learned from absolute angles",
        "as RoPE, on the embedding",
        "train with it",
        "less than RoPE",
        "Vaswani et al. 2017, arXiv 1706.03762",
    )

    def resolve(self, context: PositionContext) -> "Sinusoidal":
        require(self.base > 0, "sinusoidal base", self.base, "must be above 0")
        require(self.scale > 0, "sinusoidal scale", self.scale, "must be above 0")
        return self

    def position(self, context: PositionContext) -> Position:
        return Position(embedding=self)

    def embedding_parameters(self, dim: int) -> dict[str, Parameter]:
        if dim % 2:
            raise UserError(f"sinusoidal needs an even width, got {dim}")
        return {}

    def embed(self, learned: Mapping[str, Any], positions_BT: Any, dim: int, rms: float) -> Any:
        frequencies = self.base ** (-np.arange(0, dim, 2) / dim)
        angles_BTI = positions_BT[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)[None, None]
        waves = jnp.concatenate([jnp.sin(angles_BTI), jnp.cos(angles_BTI)], axis=-1)
        return waves * (self.scale * rms * 2**0.5)


@POSITIONS.register("learned")
@dataclasses.dataclass(frozen=True)
class Learned:
    """A learned vector per position added to the embedding (GPT-2). There is none past the last: longer texts are refused."""

    size: int | None = None  # positions; none: the trained length
    plain: ClassVar[PlainAt] = None
    shift_invariant: ClassVar[bool] = False
    card: ClassVar = Card(
        "absolute",
        "x_p + table[p]",
        "learned",
        "nothing is rotated",
        "train with it; cannot go beyond its table",
        "less than RoPE",
        "Radford et al. 2019 (GPT-2)",
    )

    def resolve(self, context: PositionContext) -> "Learned":
        size = context.trained_length if self.size is None else self.size
        rule = f"must cover {context.trained_length} tokens"
        require(size >= context.trained_length, "learned size", size, rule)
        return dataclasses.replace(self, size=size)

    def position(self, context: PositionContext) -> Position:
        return Position(embedding=self, longest=self.size)

    def embedding_parameters(self, dim: int) -> dict[str, Parameter]:
        assert self.size is not None
        shape = (self.size, dim)
        return {"positions": Parameter(shape, ("positions", "embed"), lambda key: 0.02 * jax.random.normal(key, shape))}

    def embed(self, learned: Mapping[str, Any], positions_BT: Any, dim: int, rms: float) -> Any:
        # NaN past the table, never a neighbour.
        return jnp.take(learned["positions"], positions_BT, axis=0, mode="fill")
