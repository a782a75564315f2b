"""What a model remembers of the texts it is reading: the caches of its layers, and where their tokens are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lmarch.attention.cache import LayerCache, Recalled, Slots
from lmarch.attention.operands import Where
from lmarch.attention.places import NOWHERE, Places
from lmarch.visibility import Layout


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["keys", "values_BGSK", "at"], meta_fields=["continuous"]
)
@dataclasses.dataclass(frozen=True)
class Encoded:
    """One layer's keys and values of an encoder's output."""

    keys: tuple[jax.Array, ...]
    values_BGSK: jax.Array
    at: Places
    continuous: bool  # whether the decoder's positions are counted on from its last

    def recalled(self, queries_at: Places) -> Recalled:
        """As tokens at `queries_at` attend to it."""
        queries_at = queries_at._replace(windows=None, spans=None)
        if self.continuous:
            real_BS = self.at.indices > NOWHERE
            end_B1 = jnp.where(real_BS, self.at.positions + 1, 0).max(axis=1, keepdims=True)
            queries_at = queries_at._replace(positions=queries_at.positions + end_B1)
        return Recalled(self.keys, self.values_BGSK, Where(queries_at, self.at, self.continuous))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["layers", "places", "counts_B", "spans_B1", "prefix_B1", "cut_B1", "encoded"],
    meta_fields=["placed", "chunk"],
)
@dataclasses.dataclass(frozen=True)
class Cache:
    """Of B texts, each with as many tokens as it has by now."""

    layers: tuple[LayerCache, ...]
    places: dict[Slots, Places]  # what is where, for each way of keeping tokens
    counts_B: jax.Array  # tokens read
    spans_B1: (
        jax.Array
    )  # positions that each text may grow to: its length for rotations by the length of the whole text
    prefix_B1: jax.Array | None  # prefix decoder only
    cut_B1: jax.Array | None  # parallel windows: the length that the text is cut for; what comes after it is task
    encoded: tuple[Encoded | None, ...]  # for each layer; none: there is no cross-attention
    placed: bool  # whether positions are something else than the order of tokens
    chunk: int  # tokens that may be added at once

    def places_of_next(
        self, length: int, new_B: jax.Array | None, positions_BT: jax.Array | None, layout: Layout | None
    ) -> Places:
        """Where `length` more tokens are, of which a row has `new` only (none: all)."""
        offsets_1T = jnp.arange(length, dtype=jnp.int32)[None]
        ranks_BT = self.counts_B[:, None] + offsets_1T
        indices_BT = ranks_BT if new_B is None else jnp.where(offsets_1T < new_B[:, None], ranks_BT, NOWHERE)
        windows_BT = None
        if layout is not None:
            windows_BT, positions_BT = layout.arrange(ranks_BT, self.cut_B1)
        positions_BT = ranks_BT if positions_BT is None else positions_BT
        return Places(positions_BT, indices_BT, ranks_BT, windows_BT, spans=self.spans_B1)
