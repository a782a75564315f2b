"""The forgetting gate: how far back a query looks, decided token by token by what the tokens say."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lmarch.content import Features, Parameter
from lmarch.errors import UserError
from lmarch.positions.biases import Biased
from lmarch.positions.context import PositionContext
from lmarch.positions.frequencies import described, frequency_map
from lmarch.positions.position import POSITIONS, Bias, Card, Position
from lmarch.registry import Variant


@POSITIONS.register("fox")
@dataclasses.dataclass(frozen=True)
class Fox(Biased):
    """Σ_{s<u≤t} ln f_u added to each logit, f_u = sigmoid(w·x_u + b) per head (Lin et al. 2025, arXiv 2503.02130).

    With c the running sum of ln f in a document the bias is c_t - c_s. Every token is a decay of its own, so a text needs no
    other positions; the paper's models have none, and `frequencies` adds a rotation. A query must come after its keys:
    causal layers only.
    """

    frequencies: Variant | None = None  # a frequency map that rotates too; none: nothing is rotated
    reads_content: ClassVar[bool] = True
    key_features: ClassVar[int] = 1
    card: ClassVar = Card(
        "bias",
        "Σ ln σ(w·x_u + b) over s < u ≤ t",
        "far ones fade as the tokens between them say",
        "nothing is rotated",
        "train with it",
        "a running sum, and an addition per logit",
        "Lin et al. 2025, arXiv 2503.02130",
    )

    def resolve(self, context: PositionContext) -> "Fox":
        if context.mask_kind != "causal":
            raise UserError("fox forgets what lies before a query, and is not defined where later keys are seen")
        if self.frequencies is None:
            return self
        return dataclasses.replace(self, frequencies=described(frequency_map(self.frequencies, context, self)))

    def position(self, context: PositionContext) -> Position:
        bias = Bias(self, context.num_heads, bidirectional=False)
        if self.frequencies is None:
            return Position(bias=bias)
        rotating = frequency_map(self.frequencies, context, self)
        return Position(bias=bias, rotation=rotating.rotation(context), **rotating.limits(context))

    def content_parameters(self, dim: int, num_heads: int) -> dict[str, Parameter]:
        def weights(key: Any) -> Any:
            return jax.random.normal(key, (dim, num_heads)) / dim**0.5

        return {
            "forget_weight": Parameter((dim, num_heads), ("embed", "heads"), weights),
            "forget_bias": Parameter((num_heads,), ("heads",), lambda key: jnp.zeros(num_heads)),
        }

    def features(self, learned: Mapping[str, Any], x_BTD: Any, at: Any, last_BHF: Any) -> Features:
        weight_DH, bias_11H = learned["forget_weight"], learned["forget_bias"][None, None]
        gates_BTH = jnp.einsum("BTD,DH->BTH", x_BTD.astype(weight_DH.dtype), weight_DH) + bias_11H
        sums_BTH = sums_in_documents(jax.nn.log_sigmoid(gates_BTH), at.ranks) + last_BHF[:, None, :, 0]
        return Features(sums_BTH[..., None], sums_BTH[..., None])

    def bias(
        self, learned: Mapping[str, Any], t: Any, s: Any, num_heads: int, bidirectional: bool, features: Any = None
    ) -> Any:
        return features.queries[..., :, None, 0] - features.keys[..., None, :, 0]


def sums_in_documents(x_BTH: jax.Array, ranks_BT: jax.Array) -> jax.Array:
    """Add up the values of each document to its start, each with those before it.

    In log2(T) steps, step n adds the sum of the 2^n tokens before the last 2^n (Hillis and Steele 1986). Which numbers are
    added in which order depends on a token's rank alone: a document has the same sums, to the last bit, wherever it lies.
    """
    step = 1
    while step < x_BTH.shape[1]:
        before_BTH = jnp.pad(x_BTH[:, :-step], [(0, 0), (step, 0), (0, 0)])
        x_BTH = x_BTH + jnp.where((ranks_BT >= step)[..., None], before_BTH, 0.0)
        step *= 2
    return x_BTH
