"""What is to be attended, and what an implementation is."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lmarch.attention.operands import Operands
from lmarch.attention.spec import AttentionSpec


def attention_platform() -> str:
    """Return JAX's default platform; `gpu` is one with cuDNN's kernel only: NVIDIA's, from Ampere on."""
    name = jax.default_backend()
    if name != "gpu":
        return name
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))  # "9.0"; AMD's are names
    major = capability.partition(".")[0]
    return name if major.isdigit() and int(major) >= 8 else "gpu without cuDNN's attention"


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is to be attended: all that the choice of an implementation depends on."""

    spec: AttentionSpec
    queries: int
    keys: int
    dtype: Any
    placed: bool = False  # positions are something else than ranks
    packed: bool = False  # a row has several documents, a prefix, or parallel windows
    cached: bool = False  # keys are those of a cache
    platform: str = dataclasses.field(default_factory=attention_platform)


class Implementation(NamedTuple):
    """A way to compute attention."""

    attend: Callable[[Operands, AttentionSpec], tuple[jax.Array, jax.Array]]  # see `dense`
    serves: Callable[[Workload], str | None]  # why it does not serve a workload; None: it does
