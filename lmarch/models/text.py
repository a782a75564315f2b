"""What a model reads, and what its layers know of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import Coordinates, text_coordinates
from lmarch.attention.key_value_cache import Reading
from lmarch.visibility import Layout


class Text(NamedTuple):
    """The tokens of one stream, and where they are; int32 [B, T] each, or [1, T] where all rows are alike."""

    tokens: jax.Array
    positions: jax.Array | None = None  # default: 0, 1, ... from the start of each document
    segment_ids: jax.Array | None = None  # documents, as runs of equal ids; default: one document a row
    # Prefix decoder: of each token's own document; one number, or one a row, too.
    prefix_lengths: jax.Array | None = None
    block_positions: jax.Array | None = None  # blank infilling: place in a span, 0 outside of spans
    window_ids: jax.Array | None = None  # parallel windows: how the text is cut; default: as the window says

    def context(self, layout: Layout | None, *, other_rows: int = 0) -> "Context":
        """Return what layers know of it: where its tokens are is decided here, once, for all of them."""
        prefix = self.prefix_lengths
        if prefix is not None:
            prefix = jnp.asarray(prefix, jnp.int32)
            prefix = prefix if prefix.ndim == 2 else prefix.reshape(-1, 1)
        length = self.tokens.shape[1]
        at = text_coordinates(length, self.positions, self.segment_ids, self.window_ids, layout, prefix)
        return Context(at, self.block_positions, other_rows)


class Context(NamedTuple):
    """What a layer knows of the tokens whose states it reads."""

    at: Coordinates
    block_positions: jax.Array | None = None
    other_rows: int = 0  # in training, how many other rows are in the memory of `knn` layers
    # Of texts that are read piece by piece: how far they have been; None: these are whole.
    reading: Reading | None = None


class Memory(NamedTuple):
    """What cross-attention reads: an encoder's output."""

    states_BSD: jax.Array
    queries_at: Coordinates  # where the decoder's tokens are among the encoder's
    keys_at: Coordinates
