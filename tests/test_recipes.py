"""The recipes of docs/architecture.md work as they stand: what they register is used like what lmarch has."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import parameters

import lmarch
from lmarch.attention import implementations
from lmarch.attention.selection import SELECTIONS
from lmarch.attention.workload import Workload
from lmarch.config.reading import from_dict
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.models.mixer import MIXERS
from lmarch.positions import POSITIONS
from lmarch.visibility import WINDOWS

PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
RECIPES = PAGE[PAGE.index("\n## How to add") : PAGE.index("\n## Three architectures")]
TOKENS = np.random.default_rng(0).integers(0, 32, (2, 24))
SIZES = {"num_layers": 1, "dim": 16, "num_heads": 2, "ffn_dim": 16, "trained_length": 32, "init_std": 0.5}


@pytest.fixture(autouse=True)
def recipes(monkeypatch) -> None:
    """Carry them out, and forget them after the test."""
    for registry in (POSITIONS, WINDOWS, SELECTIONS, MIXERS):
        monkeypatch.setattr(registry, "_variants", {**registry._variants})
    monkeypatch.setitem(implementations.IMPLEMENTATIONS, "by_query", None)  # removed in the end
    names = {**vars(implementations), "__name__": "recipe"}
    for block in re.findall(r"^```python\n(.*?)^```", RECIPES, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/architecture.md", "exec"), names)


@pytest.mark.parametrize(
    "setting",
    [
        *({"position": name} for name in ("sparse", "two_places:window=4,far=6", "root_bias", "forgets")),
        *({"window": "bands:size=3,back=8"}, {"selection": "best:top=4"}, {"mixer": "recurrence"}),
    ],
    ids=str,
)
def test_what_a_recipe_registers_is_a_part_of_models(setting: dict) -> None:
    """It changes what a model computes, and nothing that comes before a token; a cache is the model."""
    plain, made = (
        ModelDefinition(from_dict({"model": {**SIZES, **own}, "train": {"steps": 1}}).model, 32)
        for own in ({}, setting)
    )
    params, cut = parameters(made), 15

    @jax.jit
    def logits(params):
        whole, first = made.apply(params, TOKENS), made.apply(params, TOKENS[:, :cut])
        cache = made.start(params, rows=2, longest=24, chunk=cut)
        pieces = []
        for piece in (TOKENS[:, :cut], TOKENS[:, cut:]):
            of_piece, cache = made.step(made.unstacked(params), cache, jnp.asarray(piece), every=True)
            pieces.append(of_piece)
        return whole, first, jnp.concatenate(pieces, axis=1)

    whole, first, pieces = logits(params)
    np.testing.assert_allclose(first, whole[:, :cut], atol=1e-5)
    np.testing.assert_allclose(pieces, whole, atol=1e-4)
    if jax.tree.structure(plain.shapes) == jax.tree.structure(made.shapes):
        assert np.abs(whole - jax.jit(plain.apply)(params, TOKENS)).max() > 1e-2


def test_the_implementation_of_a_recipe_is_used_or_refused() -> None:
    spec, reads = (
        lmarch.attention_spec(position=position, head_dim=8, num_heads=2, trained_length=16)
        for position in ("rerope:window=5", "forgets")
    )
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 24, 2, 8)).astype(np.float32)
    both = (lmarch.attend(q, k, v, spec, implementation=name) for name in ("by_query", "dense"))
    np.testing.assert_allclose(*both, atol=1e-6)
    workload = Workload(spec=reads, queries=24, keys=24, dtype=jnp.float32)
    with pytest.raises(UserError, match="without features"):
        implementations.choose("by_query", workload)
