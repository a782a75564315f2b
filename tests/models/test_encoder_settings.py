"""Settings of the encoder: its own positions stay its own, and its own length counts."""

from pathlib import Path

import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmarch.config import EncoderConfig, ModelConfig
from lmarch.errors import UserError
from lmarch.evaluation.asked import model_as
from lmarch.loading import Model
from lmarch.models.definition import ModelDefinition
from lmarch.models.text import Text
from lmarch.registry import parse_variant
from lmarch.training.optimizers import first_rates, make_optimizer

SMALL = dict(num_layers=2, dim=16, num_heads=2, trained_length=32)


def definition(**changes) -> ModelDefinition:
    return ModelDefinition(ModelConfig(architecture="encoder_decoder", **{**SMALL, **changes}), 64)


def test_an_encoder_that_names_its_position_keeps_it_under_another_method(tmp_path: Path) -> None:
    encoder = {"position": "ntk", "trained_length": 48}
    config = tiny.config(tmp_path, model__architecture="encoder_decoder", model__encoder=encoder, data__row_length=32)
    model = initialised.model(config, tmp_path)
    assert model.method == "encoder ntk:factor=1, decoder rope"
    stretched = model_as(model, "linear", 128)
    assert stretched.method == "encoder ntk:factor=1, decoder linear:factor=4"
    assert model_as(model, "rope", 32).method == model.method  # shorter than the encoder's own length is no mistake
    assert model.with_position("alibi").with_position("rope").method == model.method


def test_an_encoder_of_layers_keeps_those_that_name_their_own() -> None:
    layers = ({"position": {"name": "linear"}}, {})
    made = definition(encoder=EncoderConfig(layers=layers))
    fixed = made.with_own_positions_fixed().encoder
    assert [dict(layer) for layer in fixed.layers] == [{"position": {"name": "linear", "factor": 1}}, {}]
    assert made.common_position == "rope"
    own = definition(layers=({"position": {"name": "alibi"}},))  # the encoder still takes the common one
    assert own.common_position == "rope"


def test_the_decoder_is_counted_on_from_the_last_position_of_its_source() -> None:
    """Sampled positions have gaps: a count of tokens would put it among them."""
    made = definition(cross_positions="continuous")
    params = made.init(jax.random.key(0))
    random = np.random.default_rng(0)
    tokens, source = random.integers(0, 64, (1, 6)), random.integers(0, 64, (1, 8))
    places = np.array([[3, 9, 10, 20, 21, 22, 30, 40]])

    def logits(shift: int) -> jax.Array:
        """The decoder's own positions do not matter but for where they are after the source."""
        return at(places + shift)

    @jax.jit
    def at(places: np.ndarray, ids: np.ndarray | None = None) -> jax.Array:
        own = None if ids is None else ids[:, :6]
        return made.apply(params, tokens, np.arange(6)[None], own, source=Text(source, places, ids))

    np.testing.assert_allclose(logits(0), logits(100), atol=1e-5)
    assert not np.allclose(logits(0), at(np.arange(8)[None]), atol=1e-3)
    np.testing.assert_allclose(logits(0), at(places, np.zeros((1, 8), int)), atol=1e-5)  # of a packed row, alone in it


def test_a_position_before_the_decoders_first_is_the_sources_last() -> None:
    """There queries and keys are at no distance, as where cross-attention has no positions."""
    tokens, source = np.array([[7]]), Text(np.array([[3, 5]]), np.array([[12, 12]]))
    continuous, without = (definition(cross_positions=name) for name in ("continuous", "none"))
    params = initialised.parameters(continuous)

    def logits(made: ModelDefinition, position: int) -> jax.Array:
        return jax.jit(lambda: made.apply(params, tokens, np.array([[position]]), source=source))()

    np.testing.assert_allclose(logits(continuous, -1), logits(without, -1), atol=1e-6)
    assert not np.allclose(logits(continuous, 0), logits(without, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("position", "cross"),
    [
        ("rerope:window=8", "rope"),
        ("rerope:frequencies=ntk,frequencies.factor=4,temperature=log_n", "ntk:factor=4,temperature=log_n"),
        ("rerope:window=8,rope_base=500", "rope:rope_base=500"),
        ("resonance:frequencies=ntk,frequencies.factor=4", "resonance:frequencies=ntk,frequencies.factor=4"),
    ],
)
def test_across_an_index_map_leaves_its_frequencies(position: str, cross: str) -> None:
    """There is no near and far between two texts; other rotations stay what they are."""
    made = definition(position=dict(parse_variant(position)), cross_positions="continuous")
    assert made.sites.cross.position.method.startswith(cross)


def test_learned_places_in_spans_are_those_outside_of_spans_where_none_are_given() -> None:
    made = ModelDefinition(ModelConfig(architecture="prefix_decoder", block_positions="learned", **SMALL), 64)
    params, tokens, prefix = made.init(jax.random.key(0)), np.arange(8)[None], np.int32(3)
    outside = np.zeros((1, 8), np.int32)
    apply = jax.jit(lambda **options: made.apply(params, tokens, prefix_lengths_BT=prefix, **options))
    np.testing.assert_array_equal(apply(), apply(block_positions_BT=outside))


def test_weight_decay_leaves_biases_of_heads_alone(tmp_path: Path) -> None:
    changes = dict(model__attention_bias="all", model__ffn_bias=True, model__norm="layer")
    config = tiny.config(tmp_path, **changes, train__schedule="constant")
    made = ModelDefinition(config.model, 64)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), made.shapes)
    optimizer = make_optimizer(config, made.axes, first_rates(config, 1).at(0))

    @jax.jit
    def update(params: dict) -> dict:
        return optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]

    updates = update(params)
    moved = {
        jax.tree_util.keystr(path[-1:], simple=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(leaf)
    }
    assert moved == {"query", "key", "value", "out", "up", "gate", "down", "embedding"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(encoder=EncoderConfig(layers=({}, {}, {}))), "config.model.encoder.num_layers=2 must be a multiple"),
        (dict(encoder=EncoderConfig(layers=({"rope": 1},))), "in config.model.encoder.layers[0]"),
        (
            dict(target_length=64, encoder=EncoderConfig(trained_length=128)),
            "config.model.target_length=64 must not be below config.model.encoder.trained_length=128",
        ),
        (dict(position={"name": "nope"}), "config.model.encoder: nope sees a bag of words"),
        (dict(position={"name": "alibi"}, cross_positions="continuous"), "config.model.cross_positions: alibi"),
    ],
)
def test_a_refusal_names_the_site_that_it_is_about(changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        assert definition(**changes).sites
    assert message in str(error.value)


@pytest.mark.parametrize("prefix", [-1, 9, 2.5, "a", [1, 2, 3]])
def test_a_prefix_that_does_not_fit_is_refused_in_one_line(prefix, prefix_model) -> None:
    with pytest.raises(UserError, match=r"prefix_length=.* must be in \[0, 8\]"):
        prefix_model.logits(np.arange(16).reshape(2, 8), prefix_length=prefix)


@pytest.fixture(scope="module")
def prefix_model(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("prefix")
    objective = dict(model__architecture="prefix_decoder", data__objective="causal_lm")
    return initialised.model(tiny.config(folder, **objective, model__num_layers=1), folder)


def test_a_prefix_decoder_that_never_saw_a_prefix_says_so(prefix_model) -> None:
    assert "trained without a prefix, scored after one" in prefix_model.out_of_design(32)
    rows = prefix_model.logits(np.arange(16).reshape(2, 8), prefix_length=[0, 8])
    assert rows.shape == (2, 8, 264)
