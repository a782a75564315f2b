"""What a model remembers of the texts that it is reading."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import PADDING, Coordinates
from lmarch.attention.key_value_cache import CrossCache, Reading
from lmarch.models.mixer import State
from lmarch.models.text import Context
from lmarch.visibility import Layout


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["states", "counts_B", "spans_B1", "prefix_B1", "cut_B1", "encoded"],
    meta_fields=["placed", "chunk"],
)
@dataclasses.dataclass(frozen=True)
class Cache:
    """Of B texts, each with as many tokens as it has by now."""

    states: tuple[State, ...]  # of each layer's mixer
    counts_B: jax.Array  # tokens read
    # Positions that each text may grow to: its length for rotations by the length of the whole text.
    spans_B1: jax.Array
    prefix_B1: jax.Array | None  # prefix decoder only
    cut_B1: jax.Array | None  # parallel windows: the length that the text is cut for; what comes after it is task
    encoded: tuple[CrossCache | None, ...]  # for each layer; none: there is no cross-attention
    placed: bool  # whether positions are given, and something else than the order of tokens
    chunk: int  # tokens that may be added at once

    def context(
        self, length: int, new_B: jax.Array | None, positions_BT: jax.Array | None, layout: Layout | None
    ) -> Context:
        """Return what layers know of `length` more tokens, of which a row has `new` only (none: all)."""
        offsets_1T = jnp.arange(length, dtype=jnp.int32)[None]
        ranks_BT = self.counts_B[:, None] + offsets_1T
        indices_BT = ranks_BT if new_B is None else jnp.where(offsets_1T < new_B[:, None], ranks_BT, PADDING)
        windows_BT = None
        if layout is not None:
            windows_BT, positions_BT = layout.arrange(ranks_BT, self.cut_B1)
        at = Coordinates(indices_BT, ranks_BT, positions_BT, windows_BT, prefix=self.prefix_B1, spans=self.spans_B1)
        return Context(at, reading=Reading(self.counts_B, layout, self.cut_B1))
