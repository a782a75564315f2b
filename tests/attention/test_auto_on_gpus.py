"""What `auto` takes on GPUs: cuDNN's kernel only where there is one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from specs import rope

from lmarch.attention.implementations import choose
from lmarch.attention.workload import Workload


@pytest.mark.parametrize(
    ("capability", "taken"),
    [("8.0", "fused"), ("9.0", "fused"), ("12.0", "fused"), ("7.5", "tiled"), ("gfx90a", "tiled"), (None, "tiled")],
)
def test_auto_takes_the_kernel_from_ampere_on(capability: str | None, taken: str, monkeypatch) -> None:
    """An older one, or one of another maker, has none: the call would end in an error."""
    device = SimpleNamespace() if capability is None else SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert choose("auto", Workload(rope(), queries=4096, keys=4096, dtype=jnp.bfloat16)) == taken
