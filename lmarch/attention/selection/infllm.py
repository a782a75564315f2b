"""Blocks of far keys by their representatives: InfLLM, which needs no training."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from lmarch.attention.selection.base import ChoosesKeys, largest, require_causal
from lmarch.attention.selection.choosing import Tile
from lmarch.branches import Branch, MaskKind, Region, at
from lmarch.errors import require
from lmarch.visibility.masks import Visibility
from lmarch.visibility.selection import SELECTIONS, Statistics
from lmarch.visibility.windows import Narrowed


@SELECTIONS.register("infllm")
@dataclasses.dataclass(frozen=True)
class InfLlm(ChoosesKeys):
    """Blocks of far keys, chosen by a few representatives of each; no training (Xiao et al. 2024, arXiv 2402.04617).

    Seen as they are: the `local` most recent tokens; at one distance: the first `sinks` tokens and the `top` of the blocks
    that have left the local window as a whole. A block's score for a query is the mean logit of its `representatives`,
    over all heads together; those are the tokens with the largest mean logit for the queries that had them in their
    local window, by key-value head. `distance`: in the paper far keys are at `local`, in the released code at local - 1.

    Every query chooses for itself. The released code chooses once for 512 queries, by their mean: the first of them by
    what the later ones ask for, which a decoder cannot know. Its representatives have the largest sum of softmax
    weights; here as in the paper, of logits. It keeps the tokens between the last whole block and the local window visible;
    so does this one.
    """

    local: int | None = None  # none: half of the trained length
    sinks: int = 16
    block: int = 32
    top: int | None = 4  # blocks; none: all
    representatives: int = 4
    distance: Literal["paper", "code"] = "paper"
    asks_queries: ClassVar[bool] = True

    @property
    def in_blocks(self) -> bool:
        return True

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "InfLlm":
        require_causal(self, mask_kind)
        local = max(2, trained_length // 2) if self.local is None else self.local
        resolved = dataclasses.replace(self, local=local)
        require(local >= 2, "infllm local", resolved.local, "must be 2 or more: representatives are judged inside it")
        require(self.sinks >= 0, "infllm sinks", self.sinks, "must not be negative")
        require(self.block >= 1, "infllm block", self.block, "must be 1 or more")
        require(self.top is None or self.top >= 1, "infllm top", self.top, "must be 1 or more, or none for all")
        require(
            1 <= self.representatives <= self.block,
            "infllm representatives",
            self.representatives,
            f"must be in [1, block={self.block}]",
        )
        return resolved

    @property
    def candidates(self) -> Region:
        return Region(lag=(self.local, None), rank=(self.sinks, None))

    def narrow(self, visibility: Visibility, branches: tuple[Branch, ...]) -> Narrowed:
        assert self.local is not None
        near = Region(lag=(None, self.local - 1))
        kept = tuple(dataclasses.replace(branch, region=branch.region & near) for branch in branches)
        place = self.local if self.distance == "paper" else self.local - 1
        return Narrowed(visibility, (*kept, Branch(Region(lag=(self.local, None)), at(place), at(0))))

    def statistics(self, rows: int, groups: int, slots: int, width: int) -> Statistics:
        return {"asked_for": jnp.zeros((rows, groups, slots), jnp.float32)}

    def updated(self, statistics: Statistics, tile: Tile) -> Statistics:
        """Adds up, for each key, the logits of the queries that have it in their local window."""
        assert self.local is not None
        lag = tile.pairs.query_index - tile.pairs.key_index
        real = (tile.pairs.query_index >= 0) & (tile.pairs.key_index >= 0)
        near_BTS = (lag >= 1) & (lag < self.local) & real
        asked_BGS = jnp.where(near_BTS[:, None, None], tile.logits_BGRTS, 0.0).sum((2, 3))
        return {"asked_for": statistics["asked_for"] + asked_BGS.astype(jnp.float32)}

    def choose(self, statistics: Statistics, tile: Tile) -> jax.Array:
        asked_BGS = statistics["asked_for"]
        slots, sinks, block = asked_BGS.shape[-1], self.sinks, self.block
        count = max(0, slots - sinks) // block
        if count == 0:
            return tile.candidates_BTS[:, None, None]
        cut = slice(sinks, sinks + count * block)

        def in_blocks(x: jax.Array) -> jax.Array:
            return x[..., cut].reshape(*x.shape[:-1], count, block)

        represents_BGNM = largest(in_blocks(asked_BGS), self.representatives)
        asked_BGRTNM = jnp.where(represents_BGNM[:, :, None, None], in_blocks(tile.logits_BGRTS), 0.0)
        scores_BTN = asked_BGRTNM.sum((1, 2, -1))
        # Retrievable: every token of it is a candidate of the query.
        whole_BTN = in_blocks(tile.candidates_BTS).all(-1)
        top = count if self.top is None else self.top
        chosen_BTN = largest(jnp.where(whole_BTN, scores_BTN, -jnp.inf), top)
        left_over_BTN = ~whole_BTN
        kept = jnp.repeat(chosen_BTN | left_over_BTN, block, axis=-1)
        outside = [(0, 0), (0, 0), (sinks, slots - cut.stop)]
        kept_BTS = jnp.pad(kept, outside, constant_values=True)
        return (kept_BTS & tile.candidates_BTS)[:, None, None]
