"""Blocks of keys by a landmark token behind each: landmark attention, which is trained."""

import dataclasses

import jax
import jax.numpy as jnp

from lmarch.attention.operands import Operands
from lmarch.attention.selection.base import ChoosesKeys, largest, require_causal, tile_size
from lmarch.attention.selection.choosing import Tile
from lmarch.attention.selection.retrieving import retrieving
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Branch, MaskKind, PositionMap, Region
from lmarch.errors import UserError, require
from lmarch.visibility.masks import Visibility
from lmarch.visibility.selection import SELECTIONS, PositionTraits, Statistics
from lmarch.visibility.windows import Narrowed

_UNSEEN = -1e30


@SELECTIONS.register("landmark")
@dataclasses.dataclass(frozen=True)
class Landmark(ChoosesKeys):
    """Blocks of earlier keys, each weighed by a landmark token behind it; trained (Mohtashami & Jaggi 2023, arXiv 2305.16300).

    A landmark stands after every `block` tokens of a row: at the indices that are `block` modulo block + 1. For a query
    of block c, with l_b the logit of block b's landmark, the softmax is over

        logit_s                                        of tokens s of block c, up to the query
        l_b + logit_s - logsumexp_{u in b} logit_u     of tokens s of blocks b < c

    and landmarks get nothing. That is the paper's grouped softmax: a landmark competes with the tokens of the query's
    own block, and shares what it wins among its own block's tokens. A row may hold several documents.

    `top` none keeps every block, at plain positions: how the model is trained. With `top` the text is read in *chunks*
    of `local` blocks. A query sees its chunk as above; of the blocks before it, the memory, each head of each query
    retrieves the `top` with the largest landmark logits, of equal ones the earlier. Positions are *stingy*: in front of
    the chunk are top + 1 slots of a block each, or as many as the memory has blocks. While choosing, the latest `top`
    blocks are in their true slots and all older ones in the first. Of the chosen blocks the older ones then fill the
    slots from the left and those among the latest `top` from the right, both in order; their landmarks' final logits
    are those of these slots. No distance reaches (top + 1 + local) (block + 1), however long the text is.

    The released code does the same with `per_token_and_head` (it can also choose for all heads, or for all queries of a
    chunk, together); it needs a memory of `top` blocks or more, and while it retrieves, it predicts the token behind a
    landmark from the token before it, where here, as in training, the landmark does.
    """

    block: int = 50  # tokens, without the landmark
    top: int | None = None  # blocks; none: all
    local: int = 5  # blocks of a chunk; only with `top`

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Landmark":
        require_causal(self, mask_kind)
        require(self.block >= 1, "landmark block", self.block, "must be 1 or more")
        require(self.top is None or self.top >= 1, "landmark top", self.top, "must be 1 or more, or none for all")
        require(self.local >= 1, "landmark local", self.local, "must be 1 or more")
        return self

    @property
    def in_blocks(self) -> bool:
        return self.top is not None

    @property
    def bounded(self) -> bool:
        return self.top is not None

    @property
    def landmark_block(self) -> int | None:
        """Of every text that the model reads, so many tokens stand between two landmarks."""
        return self.block

    @property
    def width(self) -> int:
        """Of a block with its landmark."""
        return self.block + 1

    @property
    def candidates(self) -> Region:
        return Region()

    def check(self, branches: tuple[Branch, ...], traits: PositionTraits) -> None:
        if self.top is not None and (branches != (Branch(),) or any(traits)):
            raise UserError(
                f"landmark top={self.top} gives each retrieved block a position of its own, for every query anew: choose a "
                "rotation without an index map, with the same frequencies at any length, or nope; a bias or positions added "
                "to embeddings cannot follow"
            )

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        """With `top`: the chunk as it is, and the memory as if in the first slot, the farthest that a block may be."""
        if self.top is None:
            return Narrowed(visibility, branches)
        chunk = self.local * self.width
        own, memory = (Region(block_size=chunk, block_distance=bounds) for bounds in ((None, 0), (1, None)))
        first = Branch(memory, PositionMap(modulus=chunk, offset=(self.top + 1) * self.width), PositionMap(self.width))
        return Narrowed(visibility, (Branch(own), first))

    def refuses(self, *, queries: int, placed: bool, cached: bool) -> str | None:
        if self.top is not None and placed:
            return f"top={self.top} places retrieved blocks itself: leave positions out"
        return None

    def attend(
        self, operands: Operands, spec: AttentionSpec, statistics: Statistics, implementation: str, *, cached: bool
    ) -> tuple[jax.Array, jax.Array, Statistics]:
        if self.top is None:
            return super().attend(operands, spec, statistics, implementation, cached=cached)
        return *retrieving(self, operands, spec, tile_size(operands, implementation)), statistics

    def choose(self, statistics: Statistics, tile: Tile) -> jax.Array:
        is_landmark_S = jnp.arange(tile.logits_BGRTS.shape[-1]) % self.width == self.block
        return (tile.candidates_BTS & ~is_landmark_S[None, None])[:, None, None]

    def regrouped(self, tile: Tile) -> jax.Array:
        """Slots of keys are indices of the row."""
        logits_BGRTS = tile.logits_BGRTS
        size, width = logits_BGRTS.shape[-1], self.width

        def in_blocks(x: jax.Array) -> jax.Array:
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -size % width)])
            return x.reshape(*x.shape[:-1], -1, width)

        logits, seen = in_blocks(logits_BGRTS), in_blocks(tile.candidates_BTS)[:, None, None]
        tokens = jnp.where(seen[..., :-1], logits[..., :-1], _UNSEEN)
        own_BT1 = (tile.pairs.query_index // width)[:, None, None]
        earlier = seen[..., -1] & (jnp.arange(seen.shape[-2])[None, None, None, None] < own_BT1)
        shift = jnp.where(earlier, logits[..., -1] - jax.nn.logsumexp(tokens, axis=-1), 0.0)
        return (logits + shift[..., None]).reshape(*logits.shape[:-2], -1)[..., :size]

    def memory(self, query_index: jax.Array) -> jax.Array:
        """How many blocks lie before the query's chunk."""
        return query_index // (self.local * self.width) * self.local

    def slots_to_choose_by(self, memory: jax.Array, count: int) -> jax.Array:
        """Of `count` blocks, [..., N], the slot in which each is while `top` are chosen; `memory` [..., 1]."""
        assert self.top is not None
        blocks = jnp.arange(count).reshape((1,) * (memory.ndim - 1) + (count,))
        return jnp.maximum(blocks - memory + self.top + 1, 0)

    def retrieved(self, logits: jax.Array) -> jax.Array:
        """Which blocks [..., N], by their landmarks' logits: -inf where there is no block."""
        assert self.top is not None
        return largest(logits, self.top)

    def slots_to_attend_in(self, chosen: jax.Array, memory: jax.Array) -> jax.Array:
        """The slot of each chosen block, [..., N]; the last of them, number `top`, is next to the chunk."""
        assert self.top is not None
        count = chosen.shape[-1]
        order = jnp.cumsum(chosen, axis=-1) - 1
        missing = self.top - chosen.sum(-1, keepdims=True)  # fewer are in memory: all of them are recent
        blocks = jnp.arange(count).reshape((1,) * (chosen.ndim - 1) + (count,))
        return jnp.where(blocks >= memory - self.top, order + 1 + missing, order)
