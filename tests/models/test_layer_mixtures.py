"""Patterns of layers, shared biases, absolute positions: what a model of them computes and learns."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from initialised import parameters

from lmarch.errors import UserError
from lmarch.models.definition import ModelDefinition

SWA_NOPE = (*[{"window": "sliding:size=4"}] * 2, {"position": "nope", "window": "full"})
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 24)))


def logits(made: ModelDefinition, params, tokens=TOKENS) -> np.ndarray:
    return np.asarray(jax.jit(made.apply)(params, tokens))


def definition(folder: Path, **changes) -> ModelDefinition:
    options = {f"model__{name}": value for name, value in {"num_layers": 4, **changes}.items()}
    return ModelDefinition(tiny.config(folder, **options).model, vocab_size=264)


def test_a_pattern_is_repeated_and_scanning_it_changes_nothing(tmp_path: Path) -> None:
    scanned = definition(tmp_path, layers=SWA_NOPE, num_layers=6)
    assert [spec.window.partition(":")[0] for spec in scanned.specs] == ["sliding"] * 2 + ["full"]
    assert scanned.method == "2 x rope in sliding:size=4 + 1 x nope"
    assert scanned.label == "2 x rope (sliding) + 1 x nope"
    unrolled = definition(tmp_path, layers=SWA_NOPE, num_layers=6, scan_layers=False)
    np.testing.assert_allclose(*(logits(made, parameters(scanned)) for made in (scanned, unrolled)), atol=1e-5)


def test_a_pattern_of_equal_layers_is_the_plain_stack(tmp_path: Path) -> None:
    plain, pattern = definition(tmp_path), definition(tmp_path, layers=({}, {}))
    params = jax.device_get(parameters(plain))
    pairs = [jax.tree.map(lambda x, i=i: x[i::2], params["stack"]["layers"]) for i in (0, 1)]
    stack = {"layers_0": pairs[0], "layers_1": pairs[1]}
    np.testing.assert_allclose(logits(pattern, {**params, "stack": stack}), logits(plain, params), atol=1e-5)


def test_each_layer_of_a_pattern_sees_what_its_window_allows(tmp_path: Path) -> None:
    """Windows of 4 in 2 layers reach 6 tokens back; the full layer reaches the first token."""

    def reach(layers: tuple) -> int:
        made = definition(tmp_path, layers=layers, num_layers=len(layers))
        other = np.array(TOKENS[:1])
        other[0, 0] += 1
        before, after = logits(made, parameters(made), np.concatenate([TOKENS[:1], other]))[:, -1]
        return bool((before != after).any())

    assert not reach(SWA_NOPE[:2])
    assert reach(SWA_NOPE)


def test_each_layer_of_a_pattern_can_have_a_base_of_its_own(tmp_path: Path) -> None:
    """As in Gemma 3, whose local layers have one base, and whose global layers another one that is interpolated."""
    pattern = ({"position": "rope:rope_base=500", "window": "sliding:size=4"}, {"position": "linear:factor=8"})
    local, far = definition(tmp_path, layers=pattern, rope_base=1e6).specs
    assert local.position.rotation == definition(tmp_path, rope_base=500.0).specs[0].position.rotation
    assert (
        far.position.rotation
        == definition(tmp_path, position="linear:factor=8", rope_base=1e6).specs[0].position.rotation
    )
    own = definition(tmp_path, layers=({"position": "rope:rope_base=500"},), rope_base=1e6)
    everywhere = definition(tmp_path, rope_base=500.0)
    np.testing.assert_array_equal(*(logits(made, parameters(own)) for made in (own, everywhere)))


@pytest.mark.parametrize(("shared", "count"), [("true", 1), ("false", 4)])
def test_a_bias_is_shared_by_all_layers_or_each_has_its_own(shared: str, count: int, tmp_path: Path) -> None:
    made = definition(tmp_path, position=f"t5_bias:shared={shared}")
    tables = [
        x for path, x in jax.tree_util.tree_leaves_with_path(made.shapes) if "t5_bias" in jax.tree_util.keystr(path)
    ]
    assert sum(table.size for table in tables) == count * 32 * 4
    gradient = jax.jit(jax.grad(lambda p: jnp.sin(made.apply(p, TOKENS)).sum()))(parameters(made))
    assert all(np.abs(g).max() > 0 for p, g in jax.tree_util.tree_leaves_with_path(gradient) if "t5_bias" in str(p))


def test_equal_biases_of_a_pattern_are_shared_too(tmp_path: Path) -> None:
    made = definition(tmp_path, position="t5_bias", layers=({}, {}, {"window": "sliding:size=4"}, {"position": "nope"}))
    tables = [
        x for path, x in jax.tree_util.tree_leaves_with_path(made.shapes) if "t5_bias" in jax.tree_util.keystr(path)
    ]
    assert [table.shape for table in tables] == [(32, 4)]
    assert np.isfinite(logits(made, parameters(made))).all()


def test_ssmax_and_sinks_are_learned_per_layer(tmp_path: Path) -> None:
    made = definition(tmp_path, position="rope:temperature=ssmax", sink=True)
    position = made.shapes["stack"]["layers"]["attention"]["position"]
    assert {name: x.shape for name, x in position.items()} == {"ssmax_scale": (4, 4), "sink_logit": (4, 4)}
    assert made.axes["stack"]["layers"]["attention"]["position"]["sink_logit"] == ("layers", "heads")


@pytest.mark.parametrize("position", ["sinusoidal", "learned"])
def test_absolute_positions_tell_equal_tokens_apart(position: str, tmp_path: Path) -> None:
    made = definition(tmp_path, position=position)
    same = np.full((1, 16), 65)
    found = logits(made, parameters(made), same)
    assert not np.allclose(found[0, 3], found[0, 9], atol=1e-4)
    blind = definition(tmp_path, position="nope")
    equal = logits(blind, parameters(blind), same)
    np.testing.assert_allclose(equal[0, 3], equal[0, 9], atol=1e-5)  # nothing else tells them apart


REFUSED = {
    "model.num_layers=4 must be a multiple of the 3 layers": dict(layers=SWA_NOPE),
    "unknown field 'windw' in config.model.layers[0]": dict(layers=({"windw": "full"},)),
    "positions added to embeddings cannot differ between layers": dict(layers=({"position": "sinusoidal"}, {})),
    "parallel windows cut the text for every layer alike": dict(layers=({"window": "parallel:size=8"}, {})),
    "unknown window 'slidin'": dict(layers=({"window": "slidin"},)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_patterns_are_refused(message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        assert definition(tmp_path, **REFUSED[message]).specs
    assert message in str(error.value)
