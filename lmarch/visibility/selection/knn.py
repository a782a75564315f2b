"""Keys of a memory with the largest logits: the Focused Transformer, and Unlimiformer in cross-attention."""

import dataclasses

import jax
import jax.numpy as jnp

from lmarch.branches import Branch, PositionMap, Region, Sight, at
from lmarch.errors import UserError
from lmarch.visibility.masks import Visibility
from lmarch.visibility.selection.base import (
    SELECTIONS,
    Beside,
    Plain,
    Statistics,
    Tile,
    largest,
    require,
    require_causal,
)
from lmarch.visibility.windows import Narrowed


@SELECTIONS.register("knn")
@dataclasses.dataclass(frozen=True)
class Knn(Plain):
    """The `top` keys of a memory with the largest logits, for each head of each query.

    In a causal layer the memory is all earlier *contexts* of `local` tokens, as in the Focused Transformer (Tworkowski et
    al. 2023, arXiv 2307.03170): within its own context a query sees positions as they are; keys of the memory are at the
    context's start, wherever they were. `top` none attends to all of it, as its released inference does. In
    cross-attention the memory is the whole source, as in Unlimiformer (Bertsch et al. 2023, arXiv 2305.01625).
    """

    local: int | None = None  # tokens; none: the trained length
    top: int | None = 128

    def resolve(self, trained_length: int, sight: Sight) -> "Knn":
        if sight == "cross":
            require(self.local is None, self, "local", "means nothing in cross-attention: leave it out")
            made = self
        else:
            made = dataclasses.replace(self, local=trained_length if self.local is None else self.local)
            require_causal(self, sight)
            require((made.local or 0) >= 1, made, "local", "must be 1 or more")
        require(self.top is None or self.top >= 1, self, "top", "must be 1 or more, or none for all")
        return made

    def check(self, branches: tuple[Branch, ...], beside: Beside) -> None:
        if self.local is not None and any(branch.region.block_distance != (None, None) for branch in branches):
            raise UserError(f"knn local={self.local} counts in contexts and the position in chunks: choose another one")

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        if self.local is None:
            return Narrowed(visibility, branches)
        own = Region(block_size=self.local, block_distance=(None, 0))
        kept = tuple(dataclasses.replace(branch, region=branch.region & own) for branch in branches)
        return Narrowed(visibility, (*kept, Branch(self.candidates, PositionMap(modulus=self.local), at(0))))

    @property
    def candidates(self) -> Region:
        return Region() if self.local is None else Region(block_size=self.local, block_distance=(1, None))

    def choose(self, statistics: Statistics, tile: Tile) -> jax.Array:
        candidates = tile.candidates_BTS[:, None, None]
        if self.top is None:
            return candidates
        return largest(jnp.where(candidates, tile.logits_BGRTS, -jnp.inf), self.top)
