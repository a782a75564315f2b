"""Executables that all runs of this process share: the trials of a sweep compile the same program once.

They outlive `jax.clear_caches()`, and do not depend on how long a program must take to compile to be kept on disk.
"""

import dataclasses
import functools
from typing import Any

from jax.stages import Compiled, Lowered

KEPT = 4  # the latest used; a run whose positions change while it trains has several


@dataclasses.dataclass(frozen=True)
class _Program:
    """What is compiled. Equal texts and argument structures are the same program, wherever they were lowered."""

    text: str
    structure: Any
    lowered: Lowered = dataclasses.field(compare=False)


def executable(lowered: Lowered) -> Compiled:
    """`lowered`, compiled, or what was compiled from the same text before."""
    return _compiled(_Program(lowered.as_text(), (lowered.in_tree, lowered.out_tree), lowered))


@functools.lru_cache(KEPT)
def _compiled(program: _Program) -> Compiled:
    return program.lowered.compile()
