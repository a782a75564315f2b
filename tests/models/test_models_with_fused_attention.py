"""`config.model.attention="fused"`: used where it serves, and refused in one line before anything is trained where not."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from initialised import parameters

from lmarch.config import ModelConfig
from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition
from lmarch.training.setup import set_up

CONFIG = ModelConfig(num_layers=2, dim=16, num_heads=2, head_dim=8, ffn_dim=32, trained_length=32, attention="fused")
TOKENS = jax.random.randint(jax.random.key(1), (2, 20), 0, 40)


def definition(**changes) -> ModelDefinition:
    return ModelDefinition(dataclasses.replace(CONFIG, **changes), vocab_size=48)


def test_whole_texts_have_the_logits_of_the_definition() -> None:
    fused, dense = definition(), definition(attention="dense")
    params = parameters(fused)
    np.testing.assert_allclose(jax.jit(fused.apply)(params, TOKENS), jax.jit(dense.apply)(params, TOKENS), atol=1e-5)


@pytest.mark.parametrize("packed", ["positions_BT", "segment_ids_BT"])
def test_packed_rows_are_refused(packed: str) -> None:
    made = definition()
    with pytest.raises(UserError, match=r"'fused' does not serve this layer: .*choose 'tiled' or 'auto'"):
        jax.eval_shape(
            lambda params: made.apply(params, TOKENS, **{packed: jnp.zeros((2, 20), jnp.int32)}), made.shapes
        )


@pytest.mark.parametrize("layers", [(), ({"position": {"name": "rope"}}, {"position": {"name": "alibi"}})])
def test_training_is_refused_before_it_begins(layers: tuple, tmp_path: Path) -> None:
    """Its rows are packed."""
    with pytest.raises(UserError, match=r"'fused' does not serve this layer: .*choose 'tiled' or 'auto'") as error:
        set_up(tiny.config(tmp_path, model__attention="fused", model__layers=layers), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_the_record_of_a_run_names_the_implementation_of_every_layer(tmp_path: Path) -> None:
    mixed = ({"position": {"name": "dynamic_ntk", "form": "stepwise"}}, {"position": {"name": "rope"}})
    setup = set_up(tiny.config(tmp_path, model__layers=mixed, model__trained_length=256), tmp_path / "run")
    assert setup.record["attention"] == "dense, tiled"
