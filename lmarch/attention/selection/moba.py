"""Blocks of keys by their mean: mixture of block attention, which learns nothing besides its keys."""

import dataclasses

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import PADDING
from lmarch.attention.selection.base import ChoosesKeys, largest, require_causal
from lmarch.attention.selection.choosing import Tile
from lmarch.branches import Branch, MaskKind, Region
from lmarch.errors import UserError, require
from lmarch.visibility.selection import SELECTIONS, PositionTraits, Statistics


@SELECTIONS.register("moba")
@dataclasses.dataclass(frozen=True)
class Moba(ChoosesKeys):
    """Blocks of a document, chosen by the mean of their keys (Lu et al. 2025, arXiv 2502.13189).

    A document is cut into blocks of `block` tokens from its start. Each head of each query attends to its own block, up to
    itself, and of the blocks before it to the `top` - 1 whose mean key, rotated, has the largest product with the query. It is
    trained as it is used; the choice itself has no gradient.
    """

    block: int = 64  # tokens
    top: int = 3  # blocks, the query's own among them

    @property
    def bounded(self) -> bool:
        return False

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Moba":
        require_causal(self, mask_kind)
        require(self.block >= 1, "moba block", self.block, "must be 1 or more")
        require(self.top >= 1, "moba top", self.top, "must be 1 or more: a query's own block is one of them")
        return self

    def check(self, branches: tuple[Branch, ...], traits: PositionTraits) -> None:
        if len(branches) > 1 or traits.biased:
            raise UserError(
                "moba compares queries with the mean of keys, which an additive bias or several distances for one key are "
                "no part of: choose a rotation without an index map"
            )

    @property
    def candidates(self) -> Region:
        return Region()

    def choose(self, statistics: Statistics, tile: Tile) -> jax.Array:
        """A block stands at its first token: there is its mean, and there it is chosen or not."""
        keys_BGSK = tile.keys_BGSK.astype(jnp.promote_types(jnp.float32, tile.keys_BGSK.dtype))
        rows, size = len(keys_BGSK), keys_BGSK.shape[2]
        ranks_BS, real_BS = (
            jnp.broadcast_to(x, (rows, size)) for x in (tile.keys_at.ranks, tile.keys_at.indices > PADDING)
        )
        place_S = jnp.arange(size)[None]
        first_BS = jnp.where(real_BS, jnp.maximum(place_S - ranks_BS % self.block, 0), place_S)

        def mean(keys_GSK: jax.Array, first_S: jax.Array, real_S: jax.Array) -> jax.Array:
            ones_S = real_S.astype(keys_GSK.dtype)
            sums_SGK = jax.ops.segment_sum(keys_GSK.swapaxes(0, 1) * ones_S[:, None, None], first_S, size)
            counts_S = jnp.maximum(jax.ops.segment_sum(ones_S, first_S, size), 1)
            return (sums_SGK / counts_S[:, None, None]).swapaxes(0, 1)

        means_BGSK = jax.vmap(mean)(keys_BGSK, first_BS, real_BS)
        scores_BGRTS = jnp.einsum("BTGRK,BGSK->BGRTS", tile.queries_BTGRK.astype(means_BGSK.dtype), means_BGSK)
        block_of_query = tile.pairs.query_rank // self.block
        earlier_BTS = tile.candidates_BTS & (tile.pairs.key_rank // self.block < block_of_query)
        is_first_B1S = (place_S == first_BS)[:, None]
        scores_BGRTS = jnp.where((earlier_BTS & is_first_B1S)[:, None, None], scores_BGRTS, -jnp.inf)
        chosen_BGRTS = largest(scores_BGRTS, self.top - 1) if self.top > 1 else jnp.zeros(scores_BGRTS.shape, bool)
        first_BGRTS = jnp.broadcast_to(first_BS[:, None, None, None], chosen_BGRTS.shape)
        of_chosen_BGRTS = jnp.take_along_axis(chosen_BGRTS, first_BGRTS, axis=-1)
        own_BTS = tile.pairs.key_rank // self.block == block_of_query
        return (of_chosen_BGRTS | own_BTS[:, None, None]) & tile.candidates_BTS[:, None, None]
