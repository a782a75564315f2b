"""Token selection: a query attends to what is near, and of all that is farther only to what promises most.

A window says which keys may be seen; a selection looks at queries and keys themselves. This is what the rest of the package
knows of one, and the registry of all of them; they are in `attention/selection`, a file each.
"""

from typing import Any, NamedTuple, Protocol

from lmarch.branches import Branch, MaskKind
from lmarch.content import Parameter, ReadsContent
from lmarch.registry import Registry, Variant
from lmarch.visibility.windows import Narrowed

Statistics = dict[str, Any]  # arrays that a cache keeps of keys besides themselves


class PositionTraits(NamedTuple):
    """What a position method has besides branches and frequencies that are always the same."""

    biased: bool  # an additive bias
    embedded: bool  # positions added to embeddings
    by_length: bool  # frequencies that follow the length of the text


class Selection(ReadsContent, Protocol):
    """A frozen dataclass of parameters. `attention/selection/base.py` has what most selections have in common."""

    @property
    def in_blocks(self) -> bool:
        """Whether it counts blocks of a row, which must then hold one text."""
        ...

    @property
    def landmark_block(self) -> int | None:
        """How many tokens stand between two landmarks that it needs in every text; None: it needs none."""
        ...

    @property
    def bounded(self) -> bool:
        """Whether it promises effective distances below the trained length."""
        ...

    def resolve(self, trained_length: int, mask_kind: MaskKind) -> "Selection":
        """Return itself with derived parameters filled in; raise UserError for impossible ones."""
        ...

    def check(self, branches: tuple[Branch, ...], traits: PositionTraits) -> None:
        """Raise UserError for positions that it has no meaning for."""
        ...

    def narrow(self, visibility: Any, branches: tuple[Branch, ...]) -> Narrowed:
        """Return what may be seen at most, and where far keys seem to be."""
        ...

    def parameters(self, num_heads: int) -> dict[str, Parameter]:
        """Return what it learns that needs no states."""
        ...

    def refuses(self, *, queries: int, placed: bool, cached: bool) -> str | None:
        """Return why it cannot attend here, or None.

        Args:
          queries: how many there are at once.
          placed: whether positions are something else than the order of tokens.
          cached: whether keys are those of a cache.
        """
        ...

    def attend(self, operands: Any, spec: Any, statistics: Statistics, implementation: str, *, cached: bool) -> Any:
        """Return what an implementation does, (output, log-normaliser), and the statistics as these queries leave them."""
        ...

    def beside_others(self, keys: Any, v_BGSV: Any, keys_at: Any, rows: int) -> Any:
        """Return keys, values and coordinates with those of so many other rows, where it is trained with such."""
        ...

    def statistics(self, rows: int, groups: int, slots: int, width: int) -> Statistics:
        """Return what a cache of `slots` keys of `width` channels remembers besides them, before there are any."""
        ...

    def remembered(self, statistics: Statistics, keys_BGTK: Any, indices_BT: Any) -> Statistics:
        """Return the statistics with new keys, rotated, at these indices (past the last slot: there is none)."""
        ...


SELECTIONS: Registry[Selection] = Registry("selection")


def build_selection(selection: Variant, trained_length: int, mask_kind: MaskKind) -> Selection:
    """Return the resolved selection of a name or variant; raise UserError for an unknown or impossible one."""
    return SELECTIONS.build(selection).resolve(trained_length, mask_kind)
