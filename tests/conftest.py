"""Shared by all tests: eight virtual devices, a compilation cache between runs, no silent rank promotion."""

import gc
import os
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Whatever starts tests in the background may ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = Path(__file__).parent.parent / ".cache"
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile thousands of tiny programs and run each for a moment. Without the newer emitters of fusions, where XLA has
# others, a program compiles in a third of the time, and without LLVM's optimisations in two thirds of that.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK}"
# What one process has compiled, the others read: also programs of a millisecond, of which there are thousands.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "xla-tests"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import json  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


class Golden:
    def __init__(self, name: str) -> None:
        self._arrays = np.load(Path(__file__).parent / "golden" / f"{name}.npz")
        self.cases = json.loads(str(self._arrays["__meta__"]))

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden("positions")


@pytest.fixture(scope="session")
def golden_windows() -> Golden:
    return Golden("windows")


@pytest.fixture
def figures_are_empty_files(monkeypatch) -> None:
    """Reports draw their figures; as pictures and vectors, which take most of their time, these are left empty."""

    def touch(figure: object, path: Path) -> None:
        for kind in ("png", "svg", "pdf"):
            Path(f"{path}.{kind}").touch()

    for module in ("report", "contrast"):
        monkeypatch.setattr(f"lmarch.reporting.{module}.save_figure", touch)


# Linux gives a process 65,530 memory mappings, every compiled program takes several, and XLA aborts without one.
MAPPINGS = 20_000


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs() -> Iterator[None]:
    """Keeps one long test process below the limit: what a module compiled goes when there is a lot of it.

    What stays is not looked through again by Python's collector, which would be a tenth of the tests' time.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and sum(1 for _ in maps.open()) > MAPPINGS:
        gc.unfreeze()
        jax.clear_caches()
    gc.collect()
    gc.freeze()
