"""What fields of a config can be, and the checks that its groups share."""

import math
from collections.abc import Mapping
from typing import Any

from lmarch.errors import require

# Fields that came later than the first stored runs: at their default they stay out of the fingerprint.
ADDED = {"added": True}
# Fields that change how a run is carried out but not what it computes: they stay out of the fingerprint.
OPERATIONAL = {"operational": True}
# Fields that change speed and memory, and what is computed by rounding at most: in the fingerprint they are at their default,
# so that a run that has run out of memory goes on with another value.
SPEED = {"speed": True}
VARIANTS = (Mapping[str, Any], Mapping[str, Any] | None)  # types of fields that hold `{"name": ..., **parameters}`
LAYERS = tuple[Mapping[str, Any], ...]  # the type of fields that hold several such settings
# What a layer of a pattern may have for itself, as a method, a window or a selection that evaluation can replace, ...
OF_LAYER = ("position", "window", "selection")
# ... and what else it may have for itself.
ALSO_OF_LAYER = (
    "mixer",
    "rope_base",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "value_head_dim",
    "ffn",
    "ffn_dim",
    "attention_bias",
    "ffn_bias",
    "attention_scale",
    "attention_softcap",
    "sink",
    "qk_norm",
)


def require_positive(group: Any, where: str, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        require(value is None or 0 < value < math.inf, f"{where}.{name}", value, "must be above 0 and finite")


def check_seed(group: Any, where: str) -> None:
    require(0 <= group.seed < 2**32, f"{where}.seed", group.seed, "must be in [0, 2**32)")
