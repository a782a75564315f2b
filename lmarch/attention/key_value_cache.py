"""The key-value cache: what an attention layer remembers of a text, so that one more token costs one more token.

Keys are kept rotated wherever their rotation is their own, one copy for each index map of the layer's branches, and as they
are where it depends on the query (xPos, stepwise frequencies). A layer that sees a window remembers no more than the window:
sinks stay in their slots, recents take turns in a ring. New tokens are written first and then attended to with all the others;
which token a slot holds follows from how many were read, so that coordinates need no memory.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.attend import attend_to
from lmarch.attention.coordinates import PADDING, Coordinates
from lmarch.attention.operands import cacheable_keys, heads_first, index_maps
from lmarch.attention.spec import AttentionSpec
from lmarch.content import Features
from lmarch.errors import UserError
from lmarch.visibility import Layout
from lmarch.visibility.selection import Statistics

_BEYOND = 2**30  # what is written there is dropped


@dataclasses.dataclass(frozen=True)
class Slots:
    """Where tokens are kept: the first `sinks` in slots of their own, the others in turn in those that are left."""

    capacity: int
    sinks: int = 0

    @property
    def ring(self) -> int:
        return max(1, self.capacity - self.sinks)

    def slot_of(self, at: Coordinates) -> jax.Array:
        """Return the slot of each token [B, T]; of padding, one beyond all."""
        in_ring = self.sinks + (at.ranks - self.sinks) % self.ring
        slot = jnp.where(at.ranks < self.sinks, at.ranks, in_ring)
        return jnp.where(at.indices > PADDING, slot, _BEYOND)

    def held(self, counts_B: jax.Array) -> jax.Array:
        """Return the index of the token that each slot holds after so many tokens, int32 [B, S]; PADDING: none."""
        slots_1S = jnp.arange(self.capacity, dtype=jnp.int32)[None]
        last_B1 = counts_B[:, None] - 1
        latest_BS = last_B1 - (last_B1 - slots_1S) % self.ring  # the latest index that takes its turn in this slot
        index_BS = jnp.where(slots_1S < self.sinks, slots_1S, latest_BS)
        return jnp.where((index_BS >= slots_1S) & (index_BS <= last_B1), index_BS, PADDING)


def slots_for(spec: AttentionSpec, longest: int | None, chunk: int) -> Slots:
    """Return what a layer needs for texts of up to `longest` tokens (None: any) that grow by up to `chunk` at a time.

    Raises:
      UserError: a layer that sees all of a text of any length.
    """
    kept = spec.visibility.cache_needs()
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


class Reading(NamedTuple):
    """How far texts have been read into a cache before the tokens that are added now."""

    counts_B: jax.Array  # tokens read
    layout: Layout | None = None  # of parallel windows
    cut_B1: jax.Array | None = None  # with a layout, the length that each text is cut for

    def counts_with(self, new_at: Coordinates) -> jax.Array:
        """Return how many tokens have been read with those that are at `new_at`, [B]."""
        return self.counts_B + (new_at.indices > PADDING).sum(1, dtype=jnp.int32)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["keys", "v_BGSV", "key_features", "positions_BS", "statistics"],
    meta_fields=["slots"],
)
@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """What one layer remembers of B texts, in S slots."""

    keys: tuple[jax.Array, ...]  # [B, G, S, K] each, see `cacheable_keys`
    v_BGSV: jax.Array
    key_features: dict[str, jax.Array]  # [B, S, H, g] each, of what reads content
    positions_BS: jax.Array | None  # where positions are given and no function of the order of tokens
    statistics: Statistics  # of a selection
    slots: Slots

    def coordinates(self, reading: Reading, new_at: Coordinates) -> Coordinates:
        """Return those of the tokens that the slots hold when the new ones have been written."""
        indices_BS = self.slots.held(reading.counts_with(new_at))
        ranks_BS = jnp.maximum(indices_BS, 0)
        positions_BS, windows_BS = self.positions_BS, None
        if reading.layout is not None:
            windows_BS, positions_BS = reading.layout.arrange(ranks_BS, reading.cut_B1)
        return Coordinates(indices_BS, ranks_BS, positions_BS, windows_BS, prefix=new_at.prefix)

    def last_features(self, name: str, counts_B: jax.Array) -> jax.Array:
        """Return the features [B, H, g] of the last token of each text, 0 where there is none."""
        stored_BSHF = self.key_features[name]
        last_B1 = counts_B[:, None] - 1
        slot_B1 = self.slots.slot_of(Coordinates(last_B1, last_B1))
        rows_B1 = jnp.arange(len(stored_BSHF))[:, None]
        return stored_BSHF.at[rows_B1, slot_B1].get(mode="fill", fill_value=0)[:, 0]

    def attend(
        self,
        q_BTHK: jax.Array,
        k_BTGK: jax.Array,
        v_BTGV: jax.Array,
        spec: AttentionSpec,
        at: Coordinates,
        reading: Reading,
        *,
        learned: Mapping[str, jax.Array],
        features: Mapping[str, Features],
        implementation: str,
    ) -> tuple[jax.Array, "KeyValueCache"]:
        """Write the tokens at `at`, and let them attend to all that they see: [B, T, H, V], and the cache with them."""
        slots_BT = self.slots.slot_of(at)
        new = cacheable_keys(heads_first(k_BTGK), spec, at)
        keys = tuple(_write_heads(old, x, slots_BT) for old, x in zip(self.keys, new, strict=True))
        statistics = self.statistics
        if spec.selection is not None:
            statistics = spec.selection.remembered(statistics, new[0], slots_BT)
        written = dataclasses.replace(
            self,
            keys=keys,
            v_BGSV=_write_heads(self.v_BGSV, heads_first(v_BTGV), slots_BT),
            key_features={n: _write(old, features[n].keys, slots_BT) for n, old in self.key_features.items()},
            positions_BS=None if self.positions_BS is None else _write(self.positions_BS, at.where, slots_BT),
        )
        read = {name: one._replace(keys=written.key_features[name]) for name, one in features.items()}
        out_BTHV, statistics = attend_to(
            q_BTHK,
            keys,
            written.v_BGSV,
            spec,
            at,
            written.coordinates(reading, at),
            implementation=implementation,
            learned=learned,
            features=read,
            statistics=statistics,
        )
        return out_BTHV, dataclasses.replace(written, statistics=statistics)


def empty_cache(
    spec: AttentionSpec,
    *,
    rows: int,
    kv_heads: int,
    longest: int | None,
    chunk: int,
    dtype: Any,
    placed: bool,
    feature_sizes: Mapping[str, int],
) -> KeyValueCache:
    """Return the cache of a layer before it has read anything.

    Args:
      longest, chunk: see `slots_for`.
      placed: whether positions are given, which are something else than ranks.
      feature_sizes: how many numbers of a token and head each of `spec.content` keeps of keys.
    """
    slots = slots_for(spec, longest, chunk)
    shape = (rows, kv_heads, slots.capacity)
    placed_by = placed or spec.visibility.layout is not None
    count = len(index_maps(spec, placed=placed_by)[1].distinct) if spec.keys_rotate_alone else 1
    statistics: Statistics = {}
    if spec.selection is not None:
        statistics = spec.selection.statistics(*shape, spec.head_dim)
    heads = (rows, slots.capacity, spec.num_heads)
    return KeyValueCache(
        # Arrays of their own: a step gives each back.
        keys=tuple(jnp.zeros((*shape, spec.head_dim), dtype) for _ in range(count)),
        v_BGSV=jnp.zeros((*shape, spec.value_dim), dtype),
        key_features={name: jnp.zeros((*heads, size), jnp.float32) for name, size in feature_sizes.items()},
        positions_BS=jnp.zeros((rows, slots.capacity), jnp.int32) if placed else None,
        statistics=statistics,
        slots=slots,
    )


@functools.partial(jax.tree_util.register_dataclass, data_fields=["keys", "v_BGSV", "at"], meta_fields=["continuous"])
@dataclasses.dataclass(frozen=True)
class CrossCache:
    """One layer's keys and values of a text that was encoded once."""

    keys: tuple[jax.Array, ...]  # [B, G, S, K] each, see `cacheable_keys`
    v_BGSV: jax.Array
    at: Coordinates
    continuous: bool  # whether the decoder's positions are counted on from its last

    @classmethod
    def of(
        cls, k_BSGK: jax.Array, v_BSGV: jax.Array, spec: AttentionSpec, at: Coordinates, *, continuous: bool
    ) -> "CrossCache":
        return cls(cacheable_keys(heads_first(k_BSGK), spec, at), heads_first(v_BSGV), at, continuous)

    def attend(
        self,
        q_BTHK: jax.Array,
        spec: AttentionSpec,
        queries_at: Coordinates,
        *,
        learned: Mapping[str, jax.Array],
        implementation: str,
    ) -> jax.Array:
        """Let tokens of the other text attend to it, [B, T, H, V]."""
        positions_BT = queries_at.where
        if self.continuous:
            real_BS = self.at.indices > PADDING
            positions_BT += jnp.where(real_BS, self.at.where + 1, 0).max(axis=1, keepdims=True)
        queries_at = Coordinates(queries_at.indices, queries_at.ranks, positions_BT)
        out_BTHV, _ = attend_to(
            q_BTHK,
            self.keys,
            self.v_BGSV,
            spec,
            queries_at,
            self.at,
            implementation=implementation,
            learned=learned,
            statistics={},
        )
        return out_BTHV


def _write(into_BS: jax.Array, new_BT: jax.Array, slots_BT: jax.Array) -> jax.Array:
    """Put new entries [B, T, ...] into their slots; those with a slot beyond the last are left out."""
    rows_B1 = jnp.arange(slots_BT.shape[0])[:, None]
    new_BT = jnp.broadcast_to(new_BT, (*slots_BT.shape, *new_BT.shape[2:])).astype(into_BS.dtype)
    return into_BS.at[rows_B1, slots_BT].set(new_BT, mode="drop")


def _write_heads(into_BGSK: jax.Array, new_BGTK: jax.Array, slots_BT: jax.Array) -> jax.Array:
    """Put new entries into their slots, for all heads."""
    if slots_BT.shape[1] == 1:
        # With a second token, which is dropped: XLA's CPU compiler copies a cache that a single one is written into.
        new_BGTK = jnp.pad(new_BGTK, [(0, 0), (0, 0), (0, 1), (0, 0)])
        slots_BT = jnp.pad(slots_BT, [(0, 0), (0, 1)], constant_values=_BEYOND)
    rows_B1 = jnp.arange(slots_BT.shape[0])[:, None]
    new_BTGK = heads_first(new_BGTK).astype(into_BGSK.dtype)
    return into_BGSK.at[rows_B1, :, slots_BT].set(new_BTGK, mode="drop")
