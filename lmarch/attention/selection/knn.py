"""Keys of a memory with the largest logits: the Focused Transformer, and Unlimiformer in cross-attention."""

import dataclasses

import jax
import jax.numpy as jnp

from lmarch.attention.coordinates import ANY_DOCUMENT, Coordinates
from lmarch.attention.selection.base import ChoosesKeys, largest, require_causal
from lmarch.attention.selection.choosing import Tile
from lmarch.branches import Branch, MaskKind, PositionMap, Region, at
from lmarch.errors import UserError, require
from lmarch.visibility.masks import Visibility
from lmarch.visibility.selection import SELECTIONS, PositionTraits, Statistics
from lmarch.visibility.windows import Narrowed


@SELECTIONS.register("knn")
@dataclasses.dataclass(frozen=True)
class Knn(ChoosesKeys):
    """The `top` keys of a memory with the largest logits, for each head of each query.

    In a causal layer the memory is all earlier *contexts* of `local` tokens, as in the Focused Transformer (Tworkowski et
    al. 2023, arXiv 2307.03170): within its own context a query sees positions as they are; keys of the memory are at the
    context's start, wherever they were. `top` none attends to all of it, as its released inference does. In
    cross-attention the memory is the whole source, as in Unlimiformer (Bertsch et al. 2023, arXiv 2305.01625).
    """

    local: int | None = None  # tokens; none: the trained length
    top: int | None = 128

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Knn":
        if mask_kind == "cross":
            require(self.local is None, "knn local", self.local, "means nothing in cross-attention: leave it out")
            resolved = self
        else:
            local = trained_length if self.local is None else self.local
            resolved = dataclasses.replace(self, local=local)
            require_causal(self, mask_kind)
            require(local >= 1, "knn local", resolved.local, "must be 1 or more")
        require(self.top is None or self.top >= 1, "knn top", self.top, "must be 1 or more, or none for all")
        return resolved

    def check(self, branches: tuple[Branch, ...], traits: PositionTraits) -> None:
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

    def beside_others(
        self, keys: tuple[jax.Array, ...], v_BGSV: jax.Array, keys_at: Coordinates, rows: int
    ) -> tuple[tuple[jax.Array, ...], jax.Array, Coordinates]:
        """Add the first context of each of the `rows` rows after each row, in a ring of all rows.

        They are placed in a context of their own before every row, and belong to anyone's document: each query has them in
        its memory, none in its own context. What they say does not help it, so training learns to tell them from what does
        (Tworkowski et al. 2023, arXiv 2307.03170, section 3.2: crossbatch, with d - 1 = `rows`).
        """
        if self.local is None:
            return keys, v_BGSV, keys_at
        batch, context = len(v_BGSV), self.local
        if not 0 < rows < batch:
            raise UserError(f"other_rows={rows}: there are {batch - 1} others in a batch of {batch}")

        def joined(x_BGSK: jax.Array) -> jax.Array:
            others = [jnp.roll(x_BGSK[:, :, :context], -row, axis=0) for row in range(1, rows + 1)]
            return jnp.concatenate([x_BGSK, *others], axis=2)

        length = rows * min(context, v_BGSV.shape[2])

        def beside(x_BS: jax.Array, of_others: int) -> jax.Array:
            others = jnp.full((x_BS.shape[0], length), of_others, jnp.int32)
            return jnp.concatenate([x_BS, others], axis=1)

        documents = keys_at.documents
        if documents is not None:
            documents = beside(jnp.broadcast_to(documents, (batch, documents.shape[1])), ANY_DOCUMENT)
        places = Coordinates(
            indices=beside(keys_at.indices, 0),  # in the past of every query
            ranks=beside(keys_at.ranks, 0),
            positions=beside(keys_at.where, -context),
            documents=documents,
        )
        return tuple(joined(copy) for copy in keys), joined(v_BGSV), places
