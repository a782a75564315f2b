"""The decoder of examples/minimal_decoder.py, which knows nothing of lmarch, computes what lmarch computes."""

import ast
import dataclasses
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from commands import ROOT

from lmarch.config import ModelConfig
from lmarch.models.definition import ModelDefinition
from lmarch.registry import parse_variant

FILE = ROOT / "examples" / "minimal_decoder.py"
CONFIG = ModelConfig(trained_length=16, num_layers=3, dim=32, num_heads=6, num_kv_heads=2, head_dim=8, ffn_dim=64)
WINDOW = 5
METHODS = {"rope": None, f"rerope:window={WINDOW}": WINDOW}
TOKENS = np.random.default_rng(0).integers(0, 256, (2, 3 * CONFIG.trained_length)).astype(np.int32)


@pytest.fixture(autouse=True)
def broadcasts() -> Iterator[None]:
    """The example broadcasts as NumPy does, which lmarch does not allow itself."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def minimal() -> Any:
    spec = importlib.util.spec_from_file_location("minimal_decoder", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def library(position: str) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(CONFIG, position=parse_variant(position)), vocab_size=256)


@pytest.fixture(scope="module")
def params() -> Any:
    """Of the library, and no norm among them that multiplies by 1."""
    drawn, structure = jax.tree.flatten(library("rope").init(jax.random.key(0)))
    rng = np.random.default_rng(1)
    return structure.unflatten([leaf + rng.normal(0, 0.2, leaf.shape).astype(np.float32) for leaf in drawn])


def in_minimal(params: Any) -> Any:
    """The library's parameters under the example's names; it has a dict for each layer."""
    stacked = params["stack"]["layers"]
    layers = {name: stacked[name]["scale"] for name in ("attention_norm", "ffn_norm")}
    layers |= stacked["attention"] | stacked["ffn"]
    return {
        "embedding": params["embedding"],
        "final_norm": params["final_norm"]["scale"],
        "layers": [{name: leaf[number] for name, leaf in layers.items()} for number in range(CONFIG.num_layers)],
    }


def test_it_needs_nothing_of_lmarch() -> None:
    imported = [node for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imported for alias in node.names} | {
        getattr(node, "module", "") for node in imported
    }
    assert {name.split(".")[0] for name in names if name} == {
        "functools",
        "pathlib",
        "Path",
        "typing",
        "Any",
        "jax",
        "optax",
    }


def test_its_parameters_are_those_of_the_library(minimal: Any, params: Any) -> None:
    own = minimal.init(jax.random.key(0), layers=3, D=32, H=6, G=2, K=8, F=64)
    assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, in_minimal(params))


@pytest.mark.parametrize("position", METHODS)
def test_its_logits_beyond_the_trained_length_are_those_of_the_library(
    position: str, minimal: Any, params: Any
) -> None:
    expected = jax.jit(library(position).apply)(params, TOKENS)
    found = jax.jit(minimal.decoder, static_argnames="window")(in_minimal(params), TOKENS, window=METHODS[position])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_two_methods_differ_from_the_window_on(minimal: Any, params: Any) -> None:
    read = jax.jit(minimal.decoder, static_argnames="window")
    rope, rerope = (read(in_minimal(params), TOKENS, window=window) for window in (None, WINDOW))
    np.testing.assert_allclose(rope[:, : WINDOW + 1], rerope[:, : WINDOW + 1], atol=1e-5)
    assert np.abs(rope - rerope)[:, WINDOW + 1 :].max(-1).min() > 1e-3


def test_it_writes_the_likeliest_byte_after_each(minimal: Any, params: Any) -> None:
    written = minimal.generate(in_minimal(params), b"all", 10)
    assert written.startswith(b"all")
    logits_TV = minimal.decoder(in_minimal(params), np.frombuffer(written, np.uint8)[None].astype(np.int32))[0]
    assert bytes(np.argmax(logits_TV[2:-1], axis=-1).tolist()) == written[3:]


@pytest.mark.slow
def test_it_learns_and_reads_farther_with_rerope() -> None:
    done = subprocess.run([sys.executable, FILE], capture_output=True, text=True, check=True)
    losses = [float(loss) for loss in re.findall(r"^step .* ([\d.]+) bits per byte$", done.stdout, re.MULTILINE)]
    assert losses[0] > 7.5
    assert losses[-1] < 3
    rope, rerope = (float(bits) for bits in re.findall(r"RoPE[^.]* ([\d.]+)", done.stdout.splitlines()[-1]))
    assert rerope < rope - 2
