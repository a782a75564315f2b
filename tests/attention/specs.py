"""Specs for the attention tests: every registered position method, at settings whose far branches a short text meets."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lmarch
from lmarch.attention.coordinates import cross_coordinates, text_coordinates
from lmarch.attention.operands import Operands, heads_first
from lmarch.attention.operands import make_operands as make_operands_at
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Branch
from lmarch.errors import UserError
from lmarch.positions import POSITIONS

# The public function compiles every spec it meets; most tests are cheaper operation by operation, or compile for themselves.
untraced_attend = lmarch.attend.__wrapped__

TRAINED, TARGET = 16, 64  # every method is stretched fourfold unless told otherwise

# Where the defaults would be too trivial, or could not serve a text of TARGET tokens.
SETTINGS = {
    "learned": "learned:size=128",
    "fire": "fire:threshold=8",
    "t5_bias": "t5_bias:num_buckets=8,max_distance=20",
    "xpos": "xpos:scale_base=32",
    "p_rope": "p_rope:fraction=0.5",
    "self_extend": "self_extend:group=2,window=4",
}
# What reads the states of tokens is tested where there are such, in files of its own and in whole models.
METHODS = [SETTINGS.get(name, name) for name in POSITIONS if not getattr(POSITIONS[name], "reads_content", False)]

# The dense product of many specs is cheapest operation by operation: each is compiled once for all specs of one length.
LENGTH = 60


def rope(head_dim: int = 16, num_heads: int = 4, **kwargs) -> AttentionSpec:
    options = {"trained_length": TRAINED, "target_length": TARGET, **kwargs}
    return lmarch.attention_spec(head_dim=head_dim, num_heads=num_heads, **options)


def with_branches(spec: AttentionSpec, *branches: Branch) -> AttentionSpec:
    return dataclasses.replace(spec, branches=branches)


def allowed(architecture: str) -> list[str]:
    """The methods that an architecture does not refuse."""

    def is_allowed(method: str) -> bool:
        try:
            rope(architecture=architecture, position=method)
        except UserError:
            return False
        return True

    return [method for method in METHODS if is_allowed(method)]


@functools.cache
def learned_values(spec: AttentionSpec, seed: int = 0) -> dict[str, jax.Array]:
    """Random values for what the layer learns: initial values of zero would hide a gradient's place."""
    keys = jax.random.split(jax.random.key(seed), 16)
    made = {name: p.init(key) for (name, p), key in zip(sorted(spec.learned().items()), keys, strict=False)}
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(x + 0.1 * rng.standard_normal(x.shape), jnp.float32) for name, x in made.items()}


def inputs(length: int, kv_heads: int = 4, seed: int = 0, rows: int = 2) -> tuple[jax.Array, ...]:
    """Queries, keys and values [rows, length, heads, 16], heads = 4 for the queries."""
    rng = np.random.default_rng(seed)
    shapes = [(rows, length, heads, 16) for heads in (4, kv_heads, kv_heads)]
    return tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)


def changed(x: jax.Array, where: Any, by: float = 1.0) -> jax.Array:
    """x with `by` added to some of its tokens; made by NumPy, for which nothing is compiled."""
    other = np.array(x)
    other[:, where] += by
    return jnp.asarray(other)


def packing(length: int, seed: int = 0) -> dict[str, Any]:
    """Segment ids of three documents a row, positions that restart with each, and a prefix length for each.

    The borders of one row are far from those of the other: what only one of them sees must not be passed over.
    """
    rng = np.random.default_rng(seed)
    shares = (0.45, 0.1, 0.45), (0.1, 0.7, 0.2)
    segments = np.sort([rng.choice(3, length, p=of_row) for of_row in shares], axis=-1)
    positions = np.stack([np.arange(length) - np.searchsorted(row, row) for row in segments])
    prefix = rng.integers(0, length // 4, (2, 3))[np.arange(2)[:, None], segments]
    return {
        name: jnp.asarray(x, jnp.int32)
        for name, x in zip(("segments", "positions", "prefix"), (segments, positions, prefix), strict=True)
    }


def make_operands(
    q,
    k,
    v,
    spec,
    positions_BT=None,
    segment_ids_BT=None,
    prefix_BT=None,
    learned=None,
    key_positions_BS=None,
    key_segment_ids_BS=None,
) -> Operands:
    """What an implementation of attention receives of whole texts; see `attend`."""
    if spec.mask_kind == "cross":
        queries_at = cross_coordinates(q.shape[1], positions_BT, segment_ids_BT)
        keys_at = cross_coordinates(k.shape[1], key_positions_BS, key_segment_ids_BS)
    else:
        layout = spec.visibility.layout
        queries_at = text_coordinates(q.shape[1], positions_BT, segment_ids_BT, layout=layout, prefix=prefix_BT)
        keys_at = queries_at
    return make_operands_at(q, (heads_first(k),), heads_first(v), spec, queries_at, keys_at, learned=learned)
