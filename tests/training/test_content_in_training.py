"""What reads the states of tokens, and what chooses keys, in training: packed rows of real batches, tiles, several layers."""

from pathlib import Path

import alone
import jax
import numpy as np
import pytest
import tiny

GROUPS = {
    "model__num_layers": 4,
    "model__first_layers": ({"position": "rope"},),
    "model__layers": ({}, {"window": "sliding:size=8"}),
    "model__last_layers": ({"position": "rope"},),
}
CASES = {
    "fox": {"model__position": "fox"},
    "fox that rotates, in tiles": {"model__position": "fox:frequencies=rope", "model__attention": "tiled"},
    "fox in groups of layers": {**GROUPS, "model__position": "fox"},
    "moba": {"model__selection": "moba:block=8,top=2"},
    "fox in the decoder of two": {
        "model__architecture": "encoder_decoder",
        "data__objective": "span_corruption",
        "model__position": "fox",
        "model__encoder": {"position": "rope"},
    },
}


@pytest.mark.parametrize(
    "case", [*list(CASES)[:2], *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[2:])]
)
def test_a_batch_is_learned_by_heart(case: str, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, **CASES[case], train__steps=50)
    alone.assert_learned_by_heart(config, alone.loader(config).batch(0))


def test_the_parameters_of_a_gate_have_a_gradient(tmp_path: Path) -> None:
    config = tiny.config(tmp_path, model__position="fox")
    made = alone.definition(config)
    params, _ = alone.steps(config, made, alone.batches(config, 4))
    before = made.init(jax.random.key(config.model.seed))
    gates = [tree["stack"]["layers"]["attention"]["position"] for tree in (before, params)]
    assert set(gates[0]) == {"forget_weight", "forget_bias"}
    for name in gates[0]:
        assert np.abs(np.asarray(gates[0][name]) - gates[1][name]).max() > 1e-4, name
