"""WHAT a token sees: the architecture's mask, narrowed by a window.

Visibility is a tuple of disjoint regions over token *indices* in a row (positions may restart or be sampled; order
does not); documents and padding are kept apart by segment ids on top of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from lmarch.branches import Region
from lmarch.registry import Registry

Visibility = tuple[Region, ...]

ARCHITECTURES: dict[str, Visibility] = {
    "causal_decoder": (Region(distance=(0, None)),),
}


class Window(Protocol):
    def narrow(self, visible: Visibility) -> Visibility: ...


WINDOWS: Registry[Window] = Registry("window")


@WINDOWS.register("full")
@dataclasses.dataclass(frozen=True)
class Full:
    """Everything the architecture lets a token see."""

    def narrow(self, visible: Visibility) -> Visibility:
        return visible


def build_visibility(architecture: str, window: str | Mapping[str, Any]) -> Visibility:
    """The regions of indices that are visible; raises UserError for an unknown window."""
    return WINDOWS.build(window).narrow(ARCHITECTURES[architecture])
