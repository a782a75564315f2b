"""Half precision trains as float32 does: bfloat16 is read and multiplied, and nothing adds up in it over steps or tokens."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from initialised import parameters

import lmarch
from lmarch.config import Config, from_dict
from lmarch.data.assembly import assemble
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.training.checkpoints import read_parameters
from lmarch.training.loop import train
from lmarch.training.optimizers import OPTIMIZERS, first_rates
from lmarch.training.step import cures, gradients, initial_state, update

STEPS = 2000
ROUNDING = 2.0**-8  # bfloat16 has 8 bits
HALF = {"param_dtype": "bfloat16", "compute_dtype": "bfloat16"}


def config_of(optimizer: str = "adamw", **model) -> Config:
    sizes = {"trained_length": 256, "num_layers": 1, "dim": 8, "num_heads": 2, "ffn_dim": 8, **model}
    train = {"steps": STEPS, "learning_rate": 1e-4, "schedule": "constant", "average_decay": 0.999}
    return from_dict({"model": sizes, "train": {**train, "optimizer": f"{optimizer}:weight_decay=0.5"}})


def after_steps(config: Config) -> dict:
    """Parameters and their average after small steps of all parameters from 1 towards 2; the embedding decays only."""
    made = ModelDefinition(config.model, vocab_size=8)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), made.shapes)

    def step(state, rates):
        grads = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) - 2, made.as_read(state["params"]))
        return update(config, made.axes, state, {**grads, "embedding": 0 * grads["embedding"]}, rates)[0], None

    rates = first_rates(config, STEPS)
    run = jax.jit(lambda params, rates: jax.lax.scan(step, initial_state(config, made.axes, params), rates)[0])
    state = run(ones, rates)
    return jax.device_get({name: made.as_read(state[name]) for name in ("params", "average")})


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_small_steps_end_where_those_of_float32_end(optimizer: str) -> None:
    """Each is smaller than the distance of two numbers of bfloat16, in which nothing would ever move."""
    exact, half = (after_steps(config_of(optimizer, param_dtype=dtype)) for dtype in ("float32", "bfloat16"))
    for name, tree in exact.items():
        for (path, leaf), rounded in zip(
            jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(half[name]), strict=True
        ):
            assert rounded.dtype == jnp.bfloat16
            where = f"{name} {jax.tree_util.keystr(path)}"
            np.testing.assert_allclose(rounded.astype(np.float32), leaf, rtol=ROUNDING, err_msg=where)
            assert np.all(np.abs(leaf - 1) > 4 * ROUNDING), where  # or the test would see nothing
    np.testing.assert_allclose(exact["params"]["embedding"], (1 - 1e-4 * 0.5) ** STEPS, rtol=1e-4)


def tiny_model(parts: int = 1, **model) -> Config:
    """With everything that is shared by all tokens: biases, norms, and a position bias."""
    shared = {"attention_bias": "all", "ffn_bias": True, "norm": "layer", "position": "t5_bias"}
    sizes = {"trained_length": 64, "num_layers": 1, "dim": 16, "num_heads": 2, **shared, **model}
    return from_dict({"model": sizes, "data": {"batch_rows": 32}, "train": {"steps": 1, "accumulate": parts}})


def gradient_of(config: Config):
    """Of a batch of 2,048 tokens, most of them of few kinds: a function of the parameters."""
    made = ModelDefinition(config.model, vocab_size=8)
    often = np.array([8, 4, 2, 2, 1, 1, 1, 1]) / 20
    tokens = np.random.default_rng(0).choice(8, size=(32, 65), p=often)
    batch = assemble(tokens, np.zeros(tokens.shape, int), np.ones(8, int), True, True)
    return lambda params: gradients(config, made, params, batch)[0]


def test_a_gradient_is_that_of_float32_but_for_the_rounding_of_what_is_multiplied() -> None:
    """Those of embeddings and biases are sums over all tokens, of which half precision would lose most."""
    params = parameters(ModelDefinition(tiny_model().model, vocab_size=8))
    exact, half = (jax.jit(gradient_of(config))(params) for config in (tiny_model(), tiny_model(**HALF)))
    for (path, leaf), found in zip(jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(half), strict=True):
        name = jax.tree_util.keystr(path)
        if "key_bias" not in name:  # which changes nothing: its gradient is rounding alone
            assert np.linalg.norm(found - leaf) < 0.02 * np.linalg.norm(leaf), name


def test_gradients_of_micro_batches_are_added_up_in_float32() -> None:
    config = tiny_model(parts=4, **HALF)
    shapes = ModelDefinition(config.model, vocab_size=8).shapes
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(gradient_of(config), shapes))} == {
        jnp.dtype("float32")
    }


@pytest.mark.slow
def test_a_run_keeps_float32_and_what_is_loaded_is_what_its_model_reads(tmp_path: Path) -> None:
    config = tiny.config(
        tmp_path, train__steps=1, train__average_decay=0.5, model__num_layers=1, model__param_dtype="bfloat16"
    )
    train(config, tmp_path / "run")
    for part in ("params", "average"):
        model = lmarch.load(tmp_path / "run", average=part == "average")
        _, saved, _ = read_parameters(tmp_path / "run", model.definition.shapes, None, part)
        for kept, read in zip(jax.tree.leaves(saved), jax.tree.leaves(model.params), strict=True):
            assert (kept.dtype, read.dtype) == (jnp.float32, jnp.bfloat16)
            np.testing.assert_array_equal(kept.astype(jnp.bfloat16), read)
        assert any(np.any(leaf != leaf.astype(jnp.bfloat16)) for leaf in jax.tree.leaves(saved))  # more than it reads


@pytest.mark.parametrize("field", ["param_dtype", "compute_dtype"])
def test_float16_is_refused_for_bfloat16(field: str) -> None:
    """It would need its losses scaled."""
    with pytest.raises(UserError, match=f"config.model.{field}='float16' .* did you mean 'bfloat16'?"):
        from_dict({"model": {field: "float16"}, "train": {"steps": 1}})


def test_advice_on_a_loss_that_is_not_finite_fits_the_precision() -> None:
    assert cures(tiny_model()) == "a lower train.learning_rate or a longer warm-up"
    assert cures(tiny_model(compute_dtype="bfloat16")).endswith("a longer warm-up or model.compute_dtype=float32")
    assert cures(tiny_model(**HALF)).endswith("model.param_dtype=float32 or model.compute_dtype=float32")
