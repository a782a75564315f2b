"""What every implementation of attention receives, and how it rotates queries and keys for each branch.

A rotation is linear, so a backward pass makes rotated copies again instead of keeping them. A cache keeps keys rotated, one
copy for each of the different index maps by which a layer's branches rotate keys.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import Coordinates, keys_of_document, text_length, visible_keys
from lmarch.attention.rotation import Wave, make_wave, rotate
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import PositionMap
from lmarch.content import Features
from lmarch.positions.position import Rotation
from lmarch.positions.temperatures import Temperature


class RotationIndex(NamedTuple):
    """By what tokens are rotated: a map of their positions, or of their ranks."""

    map: PositionMap = PositionMap()
    of_ranks: bool = False

    def __call__(self, at: Coordinates) -> jax.Array:
        rotated_by: jax.Array = self.map(at.ranks if self.of_ranks else at.where)
        return rotated_by


class Operands(NamedTuple):
    """Queries and keys of G key-value heads, each shared by R query heads, H = G R, before their rotation."""

    q_BTHK: jax.Array
    keys: tuple[jax.Array, ...]  # [B, G, S, K]: rotated, a copy for each key map; with `key_waves`, one that is not yet
    v_BGSV: jax.Array
    query_waves: tuple[Wave, ...]  # one for each of the different index maps of queries; none: nothing is rotated
    key_waves: tuple[Wave, ...]
    temperature: jax.Array | None  # a factor of queries, [B or 1, T, H or 1, 1]
    queries_at: Coordinates
    keys_at: Coordinates  # in self-attention of a whole row the same
    learned: dict[str, jax.Array]  # of the position method and the selection
    features: dict[str, Features]  # that they read of tokens

    @property
    def placed(self) -> bool:
        """Whether positions are something else than ranks."""
        return self.queries_at.positions is not None or self.keys_at.positions is not None


class Rotated(NamedTuple):
    """Queries [B, T, G, R, K] and keys [B, G, S, K], one of each for every branch of the spec."""

    queries: tuple[jax.Array, ...]
    keys: tuple[jax.Array, ...]


class Maps(NamedTuple):
    """The different index maps of a layer's queries, or of its keys, and which of them each branch has."""

    distinct: tuple[Any, ...]
    of_branch: tuple[int, ...]

    @classmethod
    def of(cls, maps: Sequence[Hashable]) -> "Maps":
        distinct = tuple(dict.fromkeys(maps))
        return cls(distinct, tuple(distinct.index(one) for one in maps))


def index_maps(spec: AttentionSpec, *, placed: bool) -> tuple[Maps, Maps]:
    """Return those of queries and those of keys; of a rotation that fades by the distance, pairs of both."""
    ranked = [branch.ranked and placed for branch in spec.branches]
    queries = [RotationIndex(branch.query, by_rank) for branch, by_rank in zip(spec.branches, ranked, strict=True)]
    keys = [RotationIndex(branch.key, by_rank) for branch, by_rank in zip(spec.branches, ranked, strict=True)]
    rotation = spec.position.rotation
    if rotation is None:
        return Maps.of([None] * len(queries)), Maps.of([None] * len(keys))
    if rotation.log_decay is not None:
        pairs = list(zip(queries, keys, strict=True))
        return Maps.of(pairs), Maps.of(pairs)
    return Maps.of(queries), Maps.of(keys)


def make_operands(
    q_BTHK: jax.Array,
    keys: tuple[jax.Array, ...],
    v_BGSV: jax.Array,
    spec: AttentionSpec,
    queries_at: Coordinates,
    keys_at: Coordinates,
    *,
    learned: Mapping[str, jax.Array] | None = None,
    features: Mapping[str, Features] | None = None,
    cached: bool = False,
) -> Operands:
    """Put together what `attend` was given with the waves and the temperature that follow from it.

    Args:
      keys: as `cacheable_keys` returns them if `cached`, else the keys as they are, alone.
    """
    rotation, dtype = spec.position.rotation, q_BTHK.dtype
    placed = queries_at.positions is not None or keys_at.positions is not None
    query_waves: tuple[Wave, ...] = ()
    key_waves: tuple[Wave, ...] = ()
    if rotation is not None and not rotation.stepwise:
        of_queries, of_keys = index_maps(spec, placed=placed)
        if rotation.log_decay is not None:
            waves = [_fading_waves(pair, queries_at, keys_at, rotation, dtype) for pair in of_queries.distinct]
            query_waves, key_waves = tuple(q for q, _ in waves), tuple(k for _, k in waves)
        else:
            query_waves = _waves(of_queries, queries_at, rotation, dtype)
            key_waves = () if cached else _waves(of_keys, keys_at, rotation, dtype)
    learned = dict(learned or {})
    return Operands(
        q_BTHK=q_BTHK,
        keys=keys,
        v_BGSV=v_BGSV,
        query_waves=query_waves,
        key_waves=key_waves,
        temperature=_temperature(spec.position.temperature, spec, queries_at, keys_at, learned, dtype)
        if spec.position.temperature
        else None,
        queries_at=queries_at,
        keys_at=keys_at,
        learned=learned,
        features=dict(features or {}),
    )


def rotated(operands: Operands, spec: AttentionSpec) -> Rotated:
    """Rotate queries and keys for every branch; equal index maps share a copy."""
    q_BTHK = operands.q_BTHK
    if operands.temperature is not None:
        q_BTHK = (q_BTHK * operands.temperature).astype(q_BTHK.dtype)
    groups = operands.v_BGSV.shape[1]
    queries = [rotate(q_BTHK, wave) for wave in operands.query_waves] or [q_BTHK]
    queries = [q.reshape(*q.shape[:2], groups, q.shape[2] // groups, q.shape[3]) for q in queries]
    keys = [rotate(operands.keys[0], wave, heads_axis=1) for wave in operands.key_waves] or operands.keys
    of_queries, of_keys = index_maps(spec, placed=operands.placed)
    return Rotated(tuple(queries[n] for n in of_queries.of_branch), tuple(keys[n] for n in of_keys.of_branch))


def cacheable_keys(k_BGSK: jax.Array, spec: AttentionSpec, at: Coordinates) -> tuple[jax.Array, ...]:
    """Return what a cache keeps of keys: a rotated copy for each key map, or the keys where each query rotates them."""
    rotation = spec.position.rotation
    if rotation is None or not spec.keys_rotate_alone:
        return (k_BGSK,)
    maps = index_maps(spec, placed=at.positions is not None)[1]
    return tuple(rotate(k_BGSK, wave, heads_axis=1) for wave in _waves(maps, at, rotation, k_BGSK.dtype))


def heads_first(x: jax.Array) -> jax.Array:
    """[B, S, G, K] -> [B, G, S, K]: what products with few queries, and tiles, read without a copy."""
    return x.swapaxes(1, 2)


def _waves(maps: Maps, at: Coordinates, rotation: Rotation, dtype: Any) -> tuple[Wave, ...]:
    frequencies = rotation.at(text_length(at) if rotation.by_length else 0)
    return tuple(make_wave(index_map(at), frequencies, rotation, dtype) for index_map in maps.distinct)


def _fading_waves(
    pair: tuple[RotationIndex, RotationIndex],
    queries_at: Coordinates,
    keys_at: Coordinates,
    rotation: Rotation,
    dtype: Any,
) -> tuple[Wave, Wave]:
    """Let queries fade by exp(log_decay t) and keys by exp(-log_decay s): a pair by its distance.

    Both exponents are counted from the middle of all positions of the row, or one side would overflow.
    """
    t, s = pair[0](queries_at), pair[1](keys_at)
    low = jnp.minimum(*(x.min(axis=1, keepdims=True) for x in (t, s)))
    high = jnp.maximum(*(x.max(axis=1, keepdims=True) for x in (t, s)))
    middle, frequencies = (low + high) // 2, rotation.at(0)
    of_queries = make_wave(t, frequencies, rotation, dtype, t - middle)
    return of_queries, make_wave(s, frequencies, rotation, dtype, middle - s)


def _temperature(
    temperature: Temperature,
    spec: AttentionSpec,
    queries_at: Coordinates,
    keys_at: Coordinates,
    learned: Mapping[str, jax.Array],
    dtype: Any,
) -> jax.Array:
    """Return the factor of each query, [B or 1, T, H or 1, 1]."""
    if spec.mask_kind == "cross":
        count = lengths = keys_of_document(queries_at.documents, keys_at)
    else:
        count, lengths = visible_keys(spec, queries_at), text_length(queries_at)
    exact = jnp.promote_types(jnp.float32, dtype)
    factor: jax.Array = temperature(count.astype(exact), lengths.astype(exact), learned)
    return factor[..., None, None] if factor.ndim == 2 else factor[..., None]


def carried_precision() -> str | None:
    """Return the caller's default precision of matrix products, for `jax.default_matmul_precision` of a backward pass.

    A backward pass is traced after the caller's setting is gone. Without it, float32 would be rounded to fewer bits on
    devices whose default is less, in gradients alone.
    """
    settings: Any = jax.config  # typed in some versions of JAX only
    precision: str | None = settings.jax_default_matmul_precision
    return precision
