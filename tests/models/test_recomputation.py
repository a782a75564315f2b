"""What `remat` computes again in the backward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from equations import equations

from lmarch.config import ModelConfig
from lmarch.models.definition import ModelDefinition

CONFIG = ModelConfig(num_layers=1, dim=16, num_heads=2, head_dim=8, ffn_dim=32, trained_length=256)


def gradient(**changes) -> list:
    """The equations of a model's gradient."""
    made = ModelDefinition(dataclasses.replace(CONFIG, **changes), vocab_size=48)
    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    return list(equations(jax.make_jaxpr(jax.grad(lambda p, x: made.apply(p, x).sum()))(made.shapes, tokens).jaxpr))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("remat", "loops"), [("none", 2), ("dots", 2), ("full", 3)])
def test_saving_products_runs_no_loop_over_tiles_again(remat: str, loops: int, layers: int) -> None:
    """One loop forward, one backward; only a full recomputation runs the first of them twice."""
    found = [e for e in gradient(attention="tiled", remat=remat, num_layers=layers) if e.primitive.name == "while"]
    assert len(found) == loops


@pytest.mark.parametrize(
    "changes",
    [{"attention": "fused"}, {"selection": {"name": "moba", "block": 8, "top": 2}, "attention": "tiled"}],
    ids=str,
)
def test_saving_products_computes_no_attention_again(changes: dict) -> None:
    """Its products are as many as without any recomputation."""
    none, dots, full = (
        sum(e.primitive.name == "dot_general" for e in gradient(remat=remat, **changes))
        for remat in ("none", "dots", "full")
    )
    assert none == dots < full


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_what_is_computed_again_is_float32_too(remat: str) -> None:
    """In products of a bias that is a network, which the backward pass of tiles computes again as well."""
    found = gradient(attention="tiled", remat=remat, num_layers=2, position={"name": "fire"})
    precisions = {e.params["precision"] for e in found if e.primitive.name == "dot_general"}
    assert precisions == {(jax.lax.Precision.HIGHEST,) * 2}
