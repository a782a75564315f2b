"""The key-value cache: what a decoder remembers of a text, so that one more token costs one more token.

Keys are kept turned wherever their rotation is their own, one copy for each way in which a layer's branches turn them, and
as they are where it depends on the query (xPos, stepwise frequencies). A layer that sees a window remembers no more than
the window: sinks stay in their slots, recents take turns in a ring. New tokens are written first and then attended to with
all the others; which slots a query sees follows from where their tokens are (`Places`), as everywhere.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.attend import LARGEST_DENSE, attend_to, keep_keys
from lmarch.attention.operands import Where, heads_first, key_turns
from lmarch.attention.places import NOWHERE, Places
from lmarch.attention.spec import AttentionSpec
from lmarch.errors import UserError
from lmarch.visibility.selection import Statistics

_BEYOND = 2**30  # what is written there is dropped
FEW_QUERIES = 8  # so many or fewer are attended in one product, whatever the number of keys


@dataclasses.dataclass(frozen=True, order=True)
class Slots:
    """Where tokens are kept: the first `sinks` in slots of their own, the others in turn in those that are left."""

    capacity: int
    sinks: int = 0

    def __call__(self, at: Places) -> jax.Array:
        """The slot of each token [B, T]; of those that are nowhere, one beyond all."""
        ring = max(1, self.capacity - self.sinks)
        turn = self.sinks + (at.ranks - self.sinks) % ring
        slot = jnp.where(at.ranks < self.sinks, at.ranks, turn)
        return jnp.where(at.indices > NOWHERE, slot, _BEYOND)


def slots_for(spec: AttentionSpec, longest: int | None, chunk: int) -> Slots:
    """What a layer needs for texts of up to `longest` tokens (None: any length) that grow by up to `chunk` at a time.

    Raises:
      UserError: a layer that sees all of a text of any length.
    """
    kept = spec.visibility.kept()
    if kept is None:
        if longest is None:
            raise UserError(
                f"{spec.position.method} in window {spec.window} sees all of a text, which cannot grow without end: "
                "choose window sliding, streaming or lm_infinite"
            )
        return Slots(longest)
    # The oldest key of a chunk's first query must outlive the writing of the chunk's last.
    needed = kept.sinks + kept.reach + chunk
    return Slots(needed, kept.sinks) if longest is None or needed < longest else Slots(longest)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["keys", "values_BGSK", "statistics"], meta_fields=["slots"]
)
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """Of one layer; S slots."""

    keys: tuple[jax.Array, ...]  # [B, G, S, K] each, see `keep_keys`
    values_BGSK: jax.Array
    statistics: Statistics  # of a selection
    slots: Slots


def empty_layer(spec: AttentionSpec, slots: Slots, rows: int, kv_heads: int, dtype: Any, *, placed: bool) -> LayerCache:
    shape = (rows, kv_heads, slots.capacity, spec.head_dim)
    count = 1 if spec.stepwise else len(set(key_turns(spec, placed)))
    statistics: Statistics = {}
    if spec.selection is not None:
        statistics = spec.selection.statistics(rows, *shape[1:])
    keys = tuple(jnp.zeros(shape, dtype) for _ in range(count))  # arrays of their own: a step gives each back
    return LayerCache(keys, jnp.zeros(shape, dtype), statistics, slots)


def empty_places(slots: Slots, rows: int, *, windows: bool) -> Places:
    shape = (rows, slots.capacity)
    positions, ranks = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32)
    window_ids = jnp.zeros(shape, jnp.int32) if windows else None
    return Places(positions, jnp.full(shape, NOWHERE, jnp.int32), ranks, window_ids)


def write(into_BS: jax.Array, new_BT: jax.Array, slots_BT: jax.Array) -> jax.Array:
    """`into` with the new entries in their slots; those with a slot beyond the last are left out."""
    rows_B1 = jnp.arange(slots_BT.shape[0])[:, None]
    new_BT = jnp.broadcast_to(new_BT, slots_BT.shape)
    return into_BS.at[rows_B1, slots_BT].set(new_BT, mode="drop")


def write_places(into: Places, new: Places, slots: Slots) -> Places:
    """The coordinates that slots have: they hold one document a row, and what was turned for its span is turned already."""
    slots_BT = slots(new)
    made = {name: getattr(into, name) for name in ("positions", "indices", "ranks", "windows")}
    made = {name: None if x is None else write(x, getattr(new, name), slots_BT) for name, x in made.items()}
    return into._replace(**made)


def write_heads(into_BGSK: jax.Array, new_BGTK: jax.Array, slots_BT: jax.Array) -> jax.Array:
    if slots_BT.shape[1] == 1:
        # With a second token, which is dropped: XLA's CPU compiler copies a cache that a single one is written into.
        new_BGTK = jnp.pad(new_BGTK, [(0, 0), (0, 0), (0, 1), (0, 0)])
        slots_BT = jnp.pad(slots_BT, [(0, 0), (0, 1)], constant_values=_BEYOND)
    rows_B1 = jnp.arange(slots_BT.shape[0])[:, None]
    new_BTGK = heads_first(new_BGTK).astype(into_BGSK.dtype)
    return into_BGSK.at[rows_B1, :, slots_BT].set(new_BTGK, mode="drop")


class Recalled(NamedTuple):
    """What cross-attention reads of a text that was encoded once."""

    keys: tuple[jax.Array, ...]  # [B, G, S, K] each, see `keep_keys`
    values_BGSK: jax.Array
    where: Where

    def attend(
        self, q_BTHK: jax.Array, spec: AttentionSpec, learned: Mapping[str, jax.Array], implementation: str
    ) -> jax.Array:
        """[B, T, H, K]: attention to the other text."""
        chosen = chosen_for(implementation, q_BTHK.shape[1], self.values_BGSK.shape[2])
        return attend_to(q_BTHK, self.keys, self.values_BGSK, spec, self.where, (None, None), learned, chosen)[0]


def chosen_for(implementation: str, queries: int, keys: int) -> str:
    """What `auto` picks between tokens of a cache."""
    if implementation == "fused":
        raise UserError(
            "implementation='fused' attends within whole texts: choose 'tiled', 'dense' or 'auto' for a cache"
        )
    if implementation != "auto":
        return implementation
    return "dense" if queries <= FEW_QUERIES or queries * keys <= LARGEST_DENSE**2 else "tiled"


@dataclasses.dataclass
class Past:
    """One layer's cache while a step is traced: the layer writes its new tokens and attends; `layer` is what it leaves."""

    layer: LayerCache
    new_at: Places  # of the tokens of this step
    slots_at: Places  # of what the cache holds, the new tokens among it
    prefix_B1: jax.Array | None
    placed: bool  # whether positions are something else than ranks

    def attend(
        self,
        q_BTHK: jax.Array,
        k_BTGK: jax.Array,
        v_BTGK: jax.Array,
        spec: AttentionSpec,
        learned: Mapping[str, jax.Array],
        implementation: str,
    ) -> jax.Array:
        """[B, T, H, K]: the new tokens' attention to all that they see."""
        layer, slots_BT = self.layer, self.layer.slots(self.new_at)
        new = keep_keys(heads_first(k_BTGK), spec, self.new_at, placed=self.placed)
        keys = tuple(write_heads(old, x, slots_BT) for old, x in zip(layer.keys, new, strict=True))
        values_BGSK = write_heads(layer.values_BGSK, heads_first(v_BTGK), slots_BT)
        statistics = layer.statistics
        if spec.selection is not None:
            statistics = spec.selection.remembered(statistics, new[0], slots_BT)
        where = Where(self.new_at, self.slots_at, self.placed)
        chosen = chosen_for(implementation, q_BTHK.shape[1], layer.slots.capacity)
        prefixes = self.prefix_B1, self.prefix_B1
        out_BTHK, statistics = attend_to(q_BTHK, keys, values_BGSK, spec, where, prefixes, learned, chosen, statistics)
        self.layer = LayerCache(keys, values_BGSK, statistics, layer.slots)
        return out_BTHK
