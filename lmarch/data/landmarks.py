"""Landmark tokens in rows and texts, for models whose layers attend by them (`Landmark` in `attention/selection`)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.attention.selection import SELECTIONS
from lmarch.config import ModelConfig
from lmarch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """One stands after every `block` tokens of a text: at the indices that are `block` modulo block + 1.

    The token behind a landmark is predicted by the landmark; that a landmark comes is never scored. The released code of
    Mohtashami & Jaggi (2023) puts them into the whole corpus before it is cut into rows, so that a row begins anywhere in a
    block; here every row begins one, and no landmark is cut off from its block.
    """

    block: int
    token: int  # the landmark's id

    def length(self, count: Any) -> Any:
        """How many tokens `count` of a text are with their landmarks, one behind the last included if it is due."""
        return count + count // self.block

    def room(self, length: int) -> int:
        """The most tokens of a text that fit a row of `length` with their landmarks."""
        blocks, rest = divmod(length, self.block + 1)
        return blocks * self.block + min(rest, self.block - 1)

    def inserted(self, tokens_BT: Any, length: int | None = None) -> Any:
        """Texts [B, T] with their landmarks, of NumPy or JAX; cut to `length` if that is given."""
        is_landmark_T, text_T = self._layout(tokens_BT.shape[1], length)
        return tokens_BT[:, text_T] * ~is_landmark_T[None] + np.int32(self.token) * is_landmark_T[None]

    def spread(self, values_BT: Any, length: int | None = None) -> Any:
        """What is known of each token of a text, for the same texts with landmarks: theirs is that of the token before."""
        return values_BT[:, self._layout(values_BT.shape[1], length)[1]]

    def _layout(self, count: int, length: int | None) -> tuple[np.ndarray, np.ndarray]:
        """At each index whether there is a landmark, and the number of the token that is there, or before it."""
        index = np.arange(self.length(count))[:length]
        is_landmark = index % (self.block + 1) == self.block
        return is_landmark, index - index // (self.block + 1) - is_landmark

    def behind(self, token_B: jax.Array, index_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens at these indices, each with a landmark behind it, [B, 2], and whether that is due: how many count, 1 or 2."""
        due_B = (index_B + 1) % (self.block + 1) == self.block
        tokens_B2 = jnp.stack([token_B, jnp.full_like(token_B, self.token)], axis=1)
        return tokens_B2, 1 + due_B.astype(jnp.int32)

    def logits(
        self, apply: Callable[..., jax.Array], params: Any, tokens_BT: jax.Array, *, last: int | None = None
    ) -> jax.Array:
        """What `apply` says after each token of the text, [B, T, V], or after the `last` ones.

        After the last token of a block, that is what it says after the landmark.
        """
        places = self.length(np.arange(tokens_BT.shape[1]) + 1) - 1
        places = places if last is None else places[-last:]
        logits_BTV = apply(params, self.inserted(tokens_BT), last=int(places[-1] - places[0]) + 1)
        return logits_BTV[:, places - places[0]]


def landmark_block(config: ModelConfig) -> int | None:
    """How many tokens the model's layers have between landmarks; none: no layer knows landmarks.

    Raises:
      UserError: layers that differ in it.
    """
    selections = [SELECTIONS.build(layer["selection"]) for layer in config.each_layer if layer["selection"]]
    blocks = sorted({selection.landmark_block for selection in selections if selection.landmark_block})
    if len(blocks) > 1:
        raise UserError(
            f"config.model.layers have landmarks after {' and after '.join(map(str, blocks))} tokens: a text has one kind "
            "of them, give all layers the same block"
        )
    return blocks[0] if blocks else None
