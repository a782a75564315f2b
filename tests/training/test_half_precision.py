"""Half precision trains as float32 does: in bfloat16 the model reads and multiplies, and nothing is added up over steps or tokens."""

from pathlib import Path

import alone
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from initialised import parameters

import lmarch
from lmarch.config import Config, from_dict
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.training.checkpoints import read_parameters
from lmarch.training.loop import train
from lmarch.training.optimizers import OPTIMIZERS, first_rates
from lmarch.training.step import gradients, initial_state, update

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


@pytest.mark.slow
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


if __name__ == "__main__":
    import sys, time
    for o in sorted(OPTIMIZERS):
        for d in ("float32", "bfloat16"):
            t=time.time(); s=after_steps(config_of(o, param_dtype=d))
            f=lambda t: [round(float(np.mean(np.asarray(x,np.float32))),4) for x in (t["embedding"],t["final_norm"]["scale"],t["stack"]["layers"]["attention"]["query"],t["stack"]["layers"]["ffn"]["up"])]
            print(o,d,f(s["params"]),f(s["average"]),round(time.time()-t,1),flush=True)
