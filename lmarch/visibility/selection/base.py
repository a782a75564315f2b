"""Token selection: a query attends to what is near, and of all that is farther only to what promises most.

A window says which keys may be seen; a selection looks at queries and keys themselves. Of the visible pairs, its
*candidates* stay visible only where they are chosen. Whatever a choice rests on is known when the query is read: blocks and
pages that later tokens still fill say nothing about those. Equal scores go to the earlier key.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lmarch.branches import Branch, Pairs, Region, Sight
from lmarch.errors import UserError
from lmarch.registry import Registry, Variant, label
from lmarch.visibility.masks import Visibility
from lmarch.visibility.windows import Narrowed

Statistics = dict[str, jax.Array]


class Tile(NamedTuple):
    """T queries against all S keys: of G key-value heads, each shared by R query heads."""

    logits_BGRTS: jax.Array
    pairs: Pairs  # [B or 1, T, S]
    candidates_BTS: jax.Array
    queries_BTGRK: jax.Array  # turned for the first branch, and so are
    keys_BGSK: jax.Array


class Beside(NamedTuple):
    """What a position method has besides branches and frequencies that are always the same."""

    biased: bool  # an additive bias
    embedded: bool  # positions added to embeddings
    by_length: bool  # frequencies that follow the length of the text


class Selection(Protocol):
    """A frozen dataclass of parameters."""

    learns: ClassVar[bool]  # whether its statistics are about what queries ask for

    @property
    def in_blocks(self) -> bool:
        """Whether it counts blocks of a row, which must then hold one text."""
        ...

    @property
    def bounded(self) -> bool:
        """Whether it promises effective distances below the trained length."""
        ...

    def resolve(self, trained_length: int, sight: Sight) -> "Selection":
        """Itself with derived parameters filled in; raises UserError for impossible ones."""
        ...

    def check(self, branches: tuple[Branch, ...], beside: Beside) -> None:
        """UserError for positions that it has no meaning for."""
        ...

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        """What may be seen at most, and where far keys seem to be."""
        ...

    @property
    def candidates(self) -> Region: ...

    def statistics(self, rows: int, groups: int, slots: int, width: int) -> Statistics:
        """What is remembered of keys besides themselves, before there are any."""
        ...

    def remembered(self, statistics: Statistics, keys_BGTK: jax.Array, indices_BT: jax.Array) -> Statistics:
        """With new keys, turned, at these indices (past the last slot: there is none)."""
        ...

    def updated(self, statistics: Statistics, tile: Tile) -> Statistics:
        """With what the queries of a tile say about the keys."""
        ...

    def choose(self, statistics: Statistics, tile: Tile) -> jax.Array:
        """Which candidates each head of each query attends to, bool [B, G, R, T, S] or broadcastable."""
        ...

    def regrouped(self, tile: Tile) -> jax.Array:
        """The logits [B, G, R, T, S] that the softmax is over."""
        ...


SELECTIONS: Registry[Selection] = Registry("selection")


def build_selection(selection: Variant, trained_length: int, sight: Sight) -> Selection:
    """The resolved selection of a name or variant; raises UserError for an unknown or impossible one."""
    return SELECTIONS.build(selection).resolve(trained_length, sight)


class Plain:
    """What most selections have in common: any position, and nothing to remember."""

    learns: ClassVar[bool] = False

    @property
    def in_blocks(self) -> bool:
        return False

    @property
    def bounded(self) -> bool:
        return True

    def check(self, branches: tuple[Branch, ...], beside: Beside) -> None:
        return

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        return Narrowed(visibility, branches)

    def statistics(self, rows: int, groups: int, slots: int, width: int) -> Statistics:
        return {}

    def remembered(self, statistics: Statistics, keys_BGTK: jax.Array, indices_BT: jax.Array) -> Statistics:
        return statistics

    def updated(self, statistics: Statistics, tile: Tile) -> Statistics:
        return statistics

    def regrouped(self, tile: Tile) -> jax.Array:
        return tile.logits_BGRTS


def largest(scores: jax.Array, count: int) -> jax.Array:
    """Which are among the `count` largest of the last axis, if they are not -inf; of equal ones the earlier."""
    size = scores.shape[-1]
    if count >= size:
        return scores > -jnp.inf
    places = jax.lax.top_k(scores, count)[1]
    flat, of_rows = scores.reshape(-1, size), places.reshape(-1, count)
    chosen = jnp.zeros(flat.shape, bool).at[jnp.arange(len(flat))[:, None], of_rows].set(True)
    return chosen.reshape(scores.shape) & (scores > -jnp.inf)


def require(ok: bool, selection: Any, parameter: str, rule: str) -> None:
    if not ok:
        raise UserError(f"{label(selection)} {parameter}={getattr(selection, parameter)} {rule}")


def require_causal(selection: Any, sight: Sight) -> None:
    if sight != "causal":
        where = {"prefix": "a prefix decoder", "bidirectional": "an encoder", "cross": "cross-attention"}[sight]
        raise UserError(f"{label(selection)} chooses among earlier tokens and is not defined in {where}")
