"""What a layer learns besides its projections, and what of it may read the states of its tokens.

A bias or a selection that depends on content says what it learns for it and computes *features*, a few float32 numbers for each
token and head. They reach it again for every pair, beside the pair's positions, and a cache keeps those of keys.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol


class Parameter(NamedTuple):
    """Something that is learned."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]  # logical axis names, one a dimension
    init: Callable[[Any], Any]  # random key -> array of `shape`


class Features(NamedTuple):
    """Float32 features of the tokens of a text, for H query heads."""

    queries: Any  # [B, T, H, f]
    keys: Any  # [B, S, H, g]


class ReadsContent(Protocol):
    """A frozen dataclass of parameters whose method may depend on the states of tokens."""

    reads_content: ClassVar[bool]  # whether it does; if not, the others are not asked
    key_features: ClassVar[int]  # how many numbers it keeps of a key, for each head

    def content_parameters(self, dim: int, num_heads: int) -> dict[str, Parameter]:
        """Return what is learned for the features: matrices that read states of `dim` channels, among others."""
        ...

    def features(self, learned: Mapping[str, Any], x_BTD: Any, at: Any, last_BHF: Any) -> Features:
        """Compute the features of tokens.

        Args:
          learned: `content_parameters`, float32.
          x_BTD: the states that the layer reads.
          at: their `Coordinates`.
          last_BHF: features of the key before the first of these tokens in each row, 0 where there is none: what a
            running sum goes on from.
        """
        ...


class ReadsNothing:
    """Base of what depends on coordinates alone."""

    reads_content: ClassVar[bool] = False
    key_features: ClassVar[int] = 0

    def content_parameters(self, dim: int, num_heads: int) -> dict[str, Parameter]:
        return {}

    def features(self, learned: Mapping[str, Any], x_BTD: Any, at: Any, last_BHF: Any) -> Features:
        raise NotImplementedError(f"{type(self).__name__} reads no content")
