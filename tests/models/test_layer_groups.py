"""Stacks of groups: a beginning, a repeated pattern, an end; layers that differ in anything."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from initialised import parameters
from test_cache import assert_a_cache_is_the_model

from lmarch.config import ModelConfig
from lmarch.config.reading import from_dict
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition

BASE = ModelConfig(num_layers=6, dim=16, num_heads=2, head_dim=8, ffn_dim=32, trained_length=16, init_std=0.5)
TOKENS = jax.random.randint(jax.random.key(1), (2, 24), 0, 32)
LOCAL = {"window": {"name": "sliding", "size": 6}}
GEMMA = {"layers": (LOCAL, LOCAL, {"rope_base": 1e6}), "last_layers": (LOCAL,), "num_layers": 7}


def definition(**changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(BASE, **changes), 32)


def logits(made: ModelDefinition, params) -> np.ndarray:
    return np.asarray(jax.jit(made.apply)(params, TOKENS))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_groups_of_equal_layers_are_the_plain_stack(scan_layers: bool) -> None:
    """The same weights, laid out in four groups."""
    plain = definition(scan_layers=scan_layers)
    grouped = definition(first_layers=({},), layers=({}, {}), last_layers=({},), scan_layers=scan_layers)
    params = parameters(plain)
    one_by_one = [jax.tree.map(lambda x, n=n: x[n : n + 1], params["stack"]["layers"]) for n in range(6)]
    pairs = [jax.tree.map(lambda *x: jnp.concatenate(x), one_by_one[n], one_by_one[n + 2]) for n in (1, 2)]
    stack = {"first_layers_0": one_by_one[0], "layers_0": pairs[0], "layers_1": pairs[1]}
    stack["last_layers_0"] = one_by_one[5]
    assert jax.tree.map(jnp.shape, stack) == jax.tree.map(lambda x: x.shape, grouped.shapes["stack"])
    np.testing.assert_allclose(logits(grouped, {**params, "stack": stack}), logits(plain, params), atol=1e-5)


def test_a_layer_has_its_own_base_window_heads_and_feed_forward() -> None:
    own = {"num_heads": 4, "head_dim": 4, "num_kv_heads": 1, "ffn": "relu", "ffn_dim": 64, "sink": True}
    made = definition(**{**GEMMA, "first_layers": (own,), "num_layers": 8})
    specs = made.specs
    assert [spec.window for spec in specs] == ["full", *["sliding:size=6"] * 2, "full", "sliding:size=6"]
    slowest = [spec.position.rotation.inverse_frequencies[-1] for spec in specs]
    assert slowest[3] == pytest.approx(1e6 ** (-6 / 8))
    assert slowest[1] == pytest.approx(1e4 ** (-6 / 8))
    stack = made.shapes["stack"]
    assert stack["first_layers_0"]["attention"]["query"].shape == (1, 16, 4, 4)
    assert stack["first_layers_0"]["attention"]["key"].shape == (1, 16, 1, 4)
    assert stack["first_layers_0"]["attention"]["position"]["sink_logit"].shape == (1, 4)
    assert stack["first_layers_0"]["ffn"]["up"].shape == (1, 16, 64)
    assert "gate" not in stack["first_layers_0"]["ffn"]
    assert stack["layers_2"]["attention"]["query"].shape == (2, 16, 2, 8)
    gradient = jax.jit(jax.grad(lambda p: jnp.sin(made.apply(p, TOKENS)).sum()))(parameters(made))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["stack"]) if leaf.size)


def test_a_base_of_the_position_itself_goes_before_that_of_its_layer() -> None:
    both = {"rope_base": 1e6, "position": {"name": "rope", "rope_base": 500.0}}
    spec, _ = definition(layers=(both, {})).specs
    assert spec.position.rotation == definition(rope_base=500.0).specs[0].position.rotation


def test_a_cache_keeps_each_layer_in_its_own_way() -> None:
    assert_a_cache_is_the_model(definition(**GEMMA, target_length=64))


def test_its_name_tells_the_groups() -> None:
    made = definition(**GEMMA)
    assert made.method == (
        "2 x rope in sliding:size=6 + 1 x rope:rope_base=1000000 (2 times), then rope in sliding:size=6"
    )


def test_a_base_of_its_own_means_nothing_to_a_method_that_does_not_rotate() -> None:
    assert "rope_base" not in definition(**GEMMA, position={"name": "nope"}).method


def test_flops_are_those_of_each_layer() -> None:
    wide = definition(first_layers=({"num_heads": 8},), num_layers=7)
    plain, eight = definition(), definition(num_heads=8)
    per_layer = (eight.training_flops(100) - 6 * eight.num_parameters * 100) / 6
    matrices = 6 * 100 * (wide.num_parameters - plain.num_parameters)
    extra = wide.training_flops(100) - plain.training_flops(100)
    assert extra == pytest.approx(matrices + per_layer, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ({"dim": 32},)}, r"unknown field 'dim' in config.model.layers\[0\]"),
        ({"first_layers": ({"windov": "full"},)}, r"unknown field 'windov' in config.model.first_layers\[0\]"),
        (
            {"layers": ({}, {}), "first_layers": ({},)},
            r"num_layers=6 must be a multiple of the 2 layers .* besides the 1",
        ),
        ({"first_layers": ({},) * 6}, "num_layers=6 must be above the 6 layers"),
        ({"layers": ({"num_heads": 3, "num_kv_heads": 2},)}, "num_kv_heads=2 must divide num_heads=3"),
        ({"layers": ({"mixer": "mamba"},)}, "unknown mixer 'mamba'"),
        ({"attention": "tield"}, "unknown config.model.attention 'tield'; did you mean 'tiled'"),
    ],
)
def test_layers_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    model = {"num_layers": 6, "dim": 16, "num_heads": 2, "head_dim": 8, **changes}
    with pytest.raises(UserError, match=message):
        refused(model)


def refused(model: dict) -> None:
    """Whatever looks at it first: the config, or the layers that are made of it."""
    assert ModelDefinition(from_dict({"model": model, "train": {"steps": 1}}).model, 32).sites
