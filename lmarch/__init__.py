"""lmarch: pretrain small language models and measure how they extrapolate to longer contexts.

Names of a tensor's dimensions, written as a suffix (`q_BTHK`): B batch, T queries, S keys, D model width, H heads,
G key-value heads, R query heads per key-value head, K head size, V vocabulary, F feed-forward, L layers.

Importing this package initialises no device; what is public is imported when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "attend": "lmarch.attention.attend",
    "attention_spec": "lmarch.attention.spec",
    "load": "lmarch.loading",
    "results": "lmarch.evaluation.rows",
}
__all__ = ["attend", "attention_spec", "load", "results"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lmarch' has no attribute {name!r}; public: {', '.join(__all__)}")
