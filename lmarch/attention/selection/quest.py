"""Pages of keys by an upper bound on their logits: Quest, for decoding."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from lmarch.attention.dense import softmax_over
from lmarch.attention.implementations import IMPLEMENTATIONS
from lmarch.attention.operands import Operands, rotated
from lmarch.attention.selection.base import ChoosesKeys, largest, require_causal
from lmarch.attention.selection.choosing import Tile
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Branch, MaskKind, Region
from lmarch.errors import UserError, require
from lmarch.visibility.selection import SELECTIONS, PositionTraits, Statistics


@SELECTIONS.register("quest")
@dataclasses.dataclass(frozen=True)
class Quest(ChoosesKeys):
    """Pages of keys, chosen by an upper bound on their logits (Tang et al. 2024, arXiv 2406.10774).

    Of a page the smallest and the largest value of each channel of its turned keys are known; sum_c max(q_c min_c,
    q_c max_c) bounds every logit in it. Each query head attends to the max(3, budget / page) pages with the largest
    bounds. `prefill`: in the paper and its code a prompt is read without a selection (`dense`), and only decoding selects;
    `selected` lets every query choose as if it were decoded, so that a forward pass measures what decoding does.
    """

    page: int = 16
    budget: int = 128  # tokens
    prefill: Literal["dense", "selected"] = "dense"

    @property
    def in_blocks(self) -> bool:
        return True

    @property
    def bounded(self) -> bool:
        return False

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Quest":
        require_causal(self, mask_kind)
        require(self.page >= 1, "quest page", self.page, "must be 1 or more")
        require(self.budget >= 1, "quest budget", self.budget, "must be 1 or more")
        return self

    def check(self, branches: tuple[Branch, ...], traits: PositionTraits) -> None:
        if len(branches) > 1 or traits.biased:
            raise UserError(
                "quest bounds logits by the channels of keys, which an additive bias or several distances for one key "
                "are no part of: choose a rotation without an index map"
            )

    @property
    def candidates(self) -> Region:
        return Region()

    @property
    def pages(self) -> int:
        return max(3, self.budget // self.page)

    def refuses(self, *, queries: int, placed: bool, cached: bool) -> str | None:
        if self.prefill == "dense" and queries > 1 and not cached:
            return (
                "it reads a text without a selection and selects only while it decodes: prefill=selected lets every query "
                "of a text choose as if it were decoded"
            )
        return None

    def attend(
        self, operands: Operands, spec: AttentionSpec, statistics: Statistics, implementation: str, *, cached: bool
    ) -> tuple[jax.Array, jax.Array, Statistics]:
        if cached and operands.q_BTHK.shape[1] == 1:
            return *self._of_pages(operands, spec, statistics), statistics
        if self.prefill == "dense":
            return *IMPLEMENTATIONS[implementation].attend(operands, spec), statistics
        return super().attend(operands, spec, statistics, implementation, cached=cached)

    def statistics(self, rows: int, groups: int, slots: int, width: int) -> Statistics:
        shape = (rows, groups, math.ceil(slots / self.page), width)
        return {"low": jnp.full(shape, jnp.inf, jnp.float32), "high": jnp.full(shape, -jnp.inf, jnp.float32)}

    def remembered(self, statistics: Statistics, keys_BGTK: jax.Array, indices_BT: jax.Array) -> Statistics:
        rows_B1, pages_BT = jnp.arange(len(indices_BT))[:, None], indices_BT // self.page
        keys_BTGK = keys_BGTK.swapaxes(1, 2).astype(jnp.float32)
        low, high = (statistics[name].at[rows_B1, :, pages_BT] for name in ("low", "high"))
        return {"low": low.min(keys_BTGK, mode="drop"), "high": high.max(keys_BTGK, mode="drop")}

    def bounds(self, queries_BGRTK: jax.Array, low_BGPK: jax.Array, high_BGPK: jax.Array) -> jax.Array:
        """The upper bound of each page for each query, [B, G, R, T, P]: positive channels meet the largest values."""
        positive = jnp.einsum("BGRTK,BGPK->BGRTP", jnp.maximum(queries_BGRTK, 0), high_BGPK)
        return positive + jnp.einsum("BGRTK,BGPK->BGRTP", jnp.minimum(queries_BGRTK, 0), low_BGPK)

    def choose(self, statistics: Statistics, tile: Tile) -> jax.Array:
        """Pages before the query's own are whole; of its own only the keys up to it count."""
        keys_BGSK, slots = tile.keys_BGSK.astype(jnp.float32), tile.keys_BGSK.shape[2]
        count = math.ceil(slots / self.page)
        queries_BGRTK = jnp.moveaxis(tile.queries_BTGRK, 1, 3).astype(jnp.float32)
        own_BT = jnp.maximum(tile.pairs.query_index, 0)[..., 0]
        own_BT = jnp.broadcast_to(own_BT, (len(keys_BGSK), own_BT.shape[1]))
        extremes, of_own = [], []
        for fill, cumulate in ((jnp.inf, jax.lax.cummin), (-jnp.inf, jax.lax.cummax)):
            padding = [(0, 0), (0, 0), (0, count * self.page - slots), (0, 0)]
            paged = jnp.pad(keys_BGSK, padding, constant_values=fill)
            paged = paged.reshape(*paged.shape[:2], count, self.page, -1)
            so_far = cumulate(paged, axis=3).reshape(*paged.shape[:2], count * self.page, -1)
            extremes.append(so_far.reshape(paged.shape)[:, :, :, -1])
            of_own.append(jnp.take_along_axis(so_far, own_BT[:, None, :, None], axis=2)[:, :, None])
        bounds_BGRTP = self.bounds(queries_BGRTK, *(jnp.where(jnp.isfinite(x), x, 0.0) for x in extremes))
        low, high = of_own
        own_BGRT = (jnp.maximum(queries_BGRTK, 0) * high + jnp.minimum(queries_BGRTK, 0) * low).sum(-1)
        page_P, page_BT = jnp.arange(count)[None, None, None, None], own_BT // self.page
        page_BT = page_BT[:, None, None, :, None]
        bounds_BGRTP = jnp.where(page_P == page_BT, own_BGRT[..., None], bounds_BGRTP)
        chosen_BGRTP = largest(jnp.where(page_P <= page_BT, bounds_BGRTP, -jnp.inf), self.pages)
        return jnp.repeat(chosen_BGRTP, self.page, axis=-1)[..., :slots]

    def _of_pages(self, operands: Operands, spec: AttentionSpec, statistics: Statistics) -> tuple[jax.Array, jax.Array]:
        """Return what `dense` does, for one query a row that reads the pages it chooses and no others."""
        both = rotated(operands, spec)
        q_B1GRK, k_BGSK, v_BGSV = both.queries[0], both.keys[0], operands.v_BGSV
        low_BGPK, high_BGPK = statistics["low"], statistics["high"]
        filled_BGP = jnp.isfinite(low_BGPK[..., 0])
        finite = (jnp.where(filled_BGP[..., None], x, 0.0) for x in (low_BGPK, high_BGPK))
        bounds_BGRP = self.bounds(jnp.moveaxis(q_B1GRK, 1, 3).astype(jnp.float32), *finite)[:, :, :, 0]
        bounds_BGRP = jnp.where(filled_BGP[:, :, None], bounds_BGRP, -jnp.inf)
        pages_BGRN = jax.lax.top_k(bounds_BGRP, min(self.pages, bounds_BGRP.shape[-1]))[1]
        offsets = jnp.arange(self.page)[None, None, None, None]
        indices_BGRN = (pages_BGRN[..., None] * self.page + offsets).reshape(*pages_BGRN.shape[:-1], -1)
        slots = v_BGSV.shape[2]
        kept_BGRN = jnp.minimum(indices_BGRN, slots - 1)

        def gathered(x_BGSK: jax.Array) -> jax.Array:
            """[B, G, S, K] -> [B, G, R, N, K]"""
            return jnp.take_along_axis(x_BGSK[:, :, None], kept_BGRN[..., None], axis=3)

        accumulate = jnp.promote_types(jnp.float32, v_BGSV.dtype)
        logits_BGRTN = jnp.einsum("BTGRK,BGRNK->BGRTN", q_B1GRK, gathered(k_BGSK), preferred_element_type=accumulate)
        logits_BGRTN *= spec.logit_scale
        if spec.softcap is not None:
            logits_BGRTN = spec.softcap * jnp.tanh(logits_BGRTN / spec.softcap)
        index_B = operands.queries_at.indices[:, 0]
        visible_BGRN = (indices_BGRN <= index_B[:, None, None, None]) & (indices_BGRN < slots)
        # Each query head has keys of its own now.
        batch, _, groups, repeats, _ = q_B1GRK.shape
        alone = (batch, groups * repeats, 1, 1, -1)
        v_BHNV = gathered(v_BGSV).reshape(batch, groups * repeats, -1, v_BGSV.shape[-1])
        return softmax_over(logits_BGRTN.reshape(alone), visible_BGRN.reshape(alone), v_BHNV)
