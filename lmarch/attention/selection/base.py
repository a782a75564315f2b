"""What most selections have in common."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import Coordinates
from lmarch.attention.operands import Operands
from lmarch.attention.selection.choosing import Tile, choosing
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiles import TILE
from lmarch.branches import Branch, MaskKind
from lmarch.content import Parameter, ReadsNothing
from lmarch.errors import UserError
from lmarch.registry import label
from lmarch.visibility.masks import Visibility
from lmarch.visibility.selection import PositionTraits, Statistics
from lmarch.visibility.windows import Narrowed


class ChoosesKeys(ReadsNothing):
    """Base: at any position, for tiles of queries, from logits alone, with nothing to learn or to remember.

    A selection says in `choose` which of its `candidates` each query attends to; see `choosing`.
    """

    # Whether its statistics are about what queries ask for: then they are gathered from all queries before any chooses.
    asks_queries: ClassVar[bool] = False

    @property
    def landmark_block(self) -> int | None:
        return None

    @property
    def in_blocks(self) -> bool:
        return False

    @property
    def bounded(self) -> bool:
        return True

    def check(self, branches: tuple[Branch, ...], traits: PositionTraits) -> None:
        return

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        return Narrowed(visibility, branches)

    def parameters(self, num_heads: int) -> dict[str, Parameter]:
        return {}

    def refuses(self, *, queries: int, placed: bool, cached: bool) -> str | None:
        return None

    def attend(
        self, operands: Operands, spec: AttentionSpec, statistics: Statistics, implementation: str, *, cached: bool
    ) -> tuple[jax.Array, jax.Array, Statistics]:
        return choosing(self, operands, spec, statistics, tile_size(operands, implementation))

    def beside_others(
        self, keys: tuple[jax.Array, ...], v_BGSV: jax.Array, keys_at: Coordinates, rows: int
    ) -> tuple[tuple[jax.Array, ...], jax.Array, Coordinates]:
        return keys, v_BGSV, keys_at

    def statistics(self, rows: int, groups: int, slots: int, width: int) -> Statistics:
        return {}

    def remembered(self, statistics: Statistics, keys_BGTK: jax.Array, indices_BT: jax.Array) -> Statistics:
        return statistics

    def updated(self, statistics: Statistics, tile: Tile) -> Statistics:
        """Return the statistics with what the queries of a tile say about the keys."""
        return statistics

    def choose(self, statistics: Statistics, tile: Tile) -> jax.Array:
        """Return which candidates each head of each query attends to, bool [B, G, R, T, S] or broadcastable."""
        raise NotImplementedError

    def regrouped(self, tile: Tile) -> jax.Array:
        """Return the logits [B, G, R, T, S] that the softmax is over."""
        return tile.logits_BGRTS


def tile_size(operands: Operands, implementation: str) -> int:
    """Return how many queries choose at a time: with `dense` all of them."""
    return operands.q_BTHK.shape[1] if implementation == "dense" else TILE


def largest(scores: jax.Array, count: int) -> jax.Array:
    """Return which are among the `count` largest of the last axis, if they are not -inf; of equal ones the earlier."""
    size = scores.shape[-1]
    if count >= size:
        return scores > -jnp.inf
    places = jax.lax.top_k(scores, count)[1]
    flat, of_rows = scores.reshape(-1, size), places.reshape(-1, count)
    chosen = jnp.zeros(flat.shape, bool).at[jnp.arange(len(flat))[:, None], of_rows].set(True)
    return chosen.reshape(scores.shape) & (scores > -jnp.inf)


def require_causal(selection: Any, mask_kind: MaskKind) -> None:
    """Raise UserError where keys are not those of earlier tokens alone."""
    if mask_kind != "causal":
        where = {"prefix": "a prefix decoder", "bidirectional": "an encoder", "cross": "cross-attention"}[mask_kind]
        raise UserError(f"{label(selection)} chooses among earlier tokens and is not defined in {where}")
