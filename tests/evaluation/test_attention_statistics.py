"""What heads attend to, of models whose answer is known."""

import dataclasses

import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmarch.evaluation.attention_statistics import STATISTICS, statistics

TRAINED, LENGTH = 32, 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looked_at")
    layers = ({"position": "rope"}, {"position": "t5_bias"})
    return initialised.model(tiny.config(folder, model__layers=layers, model__num_layers=4), folder)


def test_a_model_that_asks_for_nothing_attends_to_all_alike(model) -> None:
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if "'query'" in str(path) or "bias" in str(path) else x, model.trained_params
    )
    silent = dataclasses.replace(model, trained_params=params)
    tokens = np.random.default_rng(0).integers(0, 256, (3, LENGTH))
    layers = statistics(silent, tokens, TRAINED)
    assert len(layers) == 4
    queries = np.arange(LENGTH // 2, LENGTH)
    expected = {
        "entropy": 1.0,
        "sink_mass": np.mean(4 / (queries + 1)),
        "beyond": np.mean([max(0, t - TRAINED + 1) / (t + 1) for t in queries]),
        "mean_distance": np.mean(queries / 2),
        "largest_logit": 0.0,
    }
    for layer in layers:
        assert set(layer) == set(STATISTICS)
        for name, value in expected.items():
            np.testing.assert_allclose(layer[name], np.full(4, value), atol=1e-4)


def test_a_window_sees_nothing_beyond_it(model) -> None:
    near = model.with_window("sliding:size=8")
    tokens = np.random.default_rng(0).integers(0, 256, (2, LENGTH))
    for layer in statistics(near, tokens, TRAINED):
        assert (layer["beyond"] == 0).all()
        assert (layer["sink_mass"] == 0).all()
        assert (layer["mean_distance"] < 8).all()
