"""Token selection: a query attends to what is near, and of all that is farther only to what promises most.

A window says which keys may be seen; a selection looks at queries and keys themselves. Of the visible pairs, its
*candidates* stay visible only where they are chosen. Whatever a choice rests on is known when the query is read: blocks and
pages that later tokens still fill say nothing about those. Equal scores go to the earlier key.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lmarch.branches import Branch, Pairs, PositionMap, Region, Sight, at
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


class _Plain:
    """What most selections have in common: any position, and nothing to remember."""

    in_blocks: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    bounded: ClassVar[bool] = True

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


@SELECTIONS.register("knn")
@dataclasses.dataclass(frozen=True)
class Knn(_Plain):
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
            _require(self.local is None, self, "local", "means nothing in cross-attention: leave it out")
            made = self
        else:
            made = dataclasses.replace(self, local=trained_length if self.local is None else self.local)
            _require_causal(self, sight)
            _require((made.local or 0) >= 1, made, "local", "must be 1 or more")
        _require(self.top is None or self.top >= 1, self, "top", "must be 1 or more, or none for all")
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
        return _largest(jnp.where(candidates, tile.logits_BGRTS, -jnp.inf), self.top)


@SELECTIONS.register("infllm")
@dataclasses.dataclass(frozen=True)
class InfLlm(_Plain):
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
    in_blocks: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    def resolve(self, trained_length: int, sight: Sight) -> "InfLlm":
        _require_causal(self, sight)
        made = dataclasses.replace(self, local=max(2, trained_length // 2) if self.local is None else self.local)
        _require((made.local or 0) >= 2, made, "local", "must be 2 or more: representatives are judged inside it")
        _require(self.sinks >= 0, self, "sinks", "must not be negative")
        _require(self.block >= 1, self, "block", "must be 1 or more")
        _require(self.top is None or self.top >= 1, self, "top", "must be 1 or more, or none for all")
        _require(
            1 <= self.representatives <= self.block, self, "representatives", f"must be in [1, block={self.block}]"
        )
        return made

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

        represents_BGNM = _largest(in_blocks(asked_BGS), self.representatives)
        asked_BGRTNM = jnp.where(represents_BGNM[:, :, None, None], in_blocks(tile.logits_BGRTS), 0.0)
        scores_BTN = asked_BGRTNM.sum((1, 2, -1))
        # Retrievable: every token of it is a candidate of the query.
        whole_BTN = in_blocks(tile.candidates_BTS).all(-1)
        top = count if self.top is None else self.top
        chosen_BTN = _largest(jnp.where(whole_BTN, scores_BTN, -jnp.inf), top)
        left_over_BTN = ~whole_BTN
        kept = jnp.repeat(chosen_BTN | left_over_BTN, block, axis=-1)
        outside = [(0, 0), (0, 0), (sinks, slots - cut.stop)]
        kept_BTS = jnp.pad(kept, outside, constant_values=True)
        return (kept_BTS & tile.candidates_BTS)[:, None, None]


@SELECTIONS.register("quest")
@dataclasses.dataclass(frozen=True)
class Quest(_Plain):
    """Pages of keys, chosen by an upper bound on their logits (Tang et al. 2024, arXiv 2406.10774).

    Of a page the smallest and the largest value of each channel of its turned keys are known; sum_c max(q_c min_c,
    q_c max_c) bounds every logit in it. Each query head attends to the max(3, budget / page) pages with the largest
    bounds. `prefill`: in the paper and its code a prompt is read without a selection (`dense`), and only decoding selects;
    `selected` lets every query choose as if it were decoded, so that a forward pass measures what decoding does.
    """

    page: int = 16
    budget: int = 128  # tokens
    prefill: Literal["dense", "selected"] = "dense"
    in_blocks: ClassVar[bool] = True
    bounded: ClassVar[bool] = False

    def resolve(self, trained_length: int, sight: Sight) -> "Quest":
        _require_causal(self, sight)
        _require(self.page >= 1, self, "page", "must be 1 or more")
        _require(self.budget >= 1, self, "budget", "must be 1 or more")
        return self

    def check(self, branches: tuple[Branch, ...], beside: Beside) -> None:
        if len(branches) > 1 or beside.biased:
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
        parts = (jnp.maximum(queries_BGRTK, 0), high_BGPK), (jnp.minimum(queries_BGRTK, 0), low_BGPK)
        return sum(jnp.einsum("BGRTK,BGPK->BGRTP", q, extreme) for q, extreme in parts)  # type: ignore[return-value]

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
        chosen_BGRTP = _largest(jnp.where(page_P <= page_BT, bounds_BGRTP, -jnp.inf), self.pages)
        return jnp.repeat(chosen_BGRTP, self.page, axis=-1)[..., :slots]


@SELECTIONS.register("landmark")
@dataclasses.dataclass(frozen=True)
class Landmark(_Plain):
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

    def resolve(self, trained_length: int, sight: Sight) -> "Landmark":
        _require_causal(self, sight)
        _require(self.block >= 1, self, "block", "must be 1 or more")
        _require(self.top is None or self.top >= 1, self, "top", "must be 1 or more, or none for all")
        _require(self.local >= 1, self, "local", "must be 1 or more")
        return self

    @property
    def in_blocks(self) -> bool:  # type: ignore[override]
        return self.top is not None

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        return self.top is not None

    @property
    def width(self) -> int:
        """Of a block with its landmark."""
        return self.block + 1

    @property
    def candidates(self) -> Region:
        return Region()

    def check(self, branches: tuple[Branch, ...], beside: Beside) -> None:
        if self.top is not None and (branches != (Branch(),) or any(beside)):
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
        return _largest(logits, self.top)

    def slots_to_attend_in(self, chosen: jax.Array, memory: jax.Array) -> jax.Array:
        """The slot of each chosen block, [..., N]; the last of them, number `top`, is next to the chunk."""
        assert self.top is not None
        count = chosen.shape[-1]
        order = jnp.cumsum(chosen, axis=-1) - 1
        missing = self.top - chosen.sum(-1, keepdims=True)  # fewer are in memory: all of them are recent
        blocks = jnp.arange(count).reshape((1,) * (chosen.ndim - 1) + (count,))
        return jnp.where(blocks >= memory - self.top, order + 1 + missing, order)


_UNSEEN = -1e30


def _largest(scores: jax.Array, count: int) -> jax.Array:
    """Which are among the `count` largest of the last axis, if they are not -inf; of equal ones the earlier."""
    size = scores.shape[-1]
    if count >= size:
        return scores > -jnp.inf
    places = jax.lax.top_k(scores, count)[1]
    flat, of_rows = scores.reshape(-1, size), places.reshape(-1, count)
    chosen = jnp.zeros(flat.shape, bool).at[jnp.arange(len(flat))[:, None], of_rows].set(True)
    return chosen.reshape(scores.shape) & (scores > -jnp.inf)


def _require(ok: bool, selection: Any, parameter: str, rule: str) -> None:
    if not ok:
        raise UserError(f"{label(selection)} {parameter}={getattr(selection, parameter)} {rule}")


def _require_causal(selection: Any, sight: Sight) -> None:
    if sight != "causal":
        where = {"prefix": "a prefix decoder", "bidirectional": "an encoder", "cross": "cross-attention"}[sight]
        raise UserError(f"{label(selection)} chooses among earlier tokens and is not defined in {where}")
