"""The forgetting gate against its definition, in packed rows, and where it has no meaning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmarch
from lmarch.attention.coordinates import text_coordinates
from lmarch.errors import UserError

ROWS, LENGTH, HEADS, GROUPS, WIDTH, DIM = 2, 37, 4, 2, 8, 12
SEGMENTS = np.array([[0] * 9 + [1] * 17 + [2] * 11, [0] * 37])
TILE = 16
FOX = lmarch.attention_spec(position="fox", head_dim=WIDTH, num_heads=HEADS, trained_length=LENGTH)
BIAS = FOX.position.bias.method


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "q": (ROWS, LENGTH, HEADS, WIDTH),
        "k": (ROWS, LENGTH, GROUPS, WIDTH),
        "v": (ROWS, LENGTH, GROUPS, WIDTH),
        "x": (ROWS, LENGTH, DIM),
        "forget_weight": (DIM, HEADS),
        "forget_bias": (HEADS,),
    }
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def by_definition(given: dict[str, np.ndarray], segments: np.ndarray) -> np.ndarray:
    """A loop over rows, heads and queries, with the product of all gates between a key and its query."""
    gates = 1 / (1 + np.exp(-(given["x"] @ given["forget_weight"] + given["forget_bias"])))
    out = np.zeros(given["q"].shape)
    for row in range(ROWS):
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            for t in range(LENGTH):
                seen = [s for s in range(t + 1) if segments[row, s] == segments[row, t]]
                logits = [
                    given["q"][row, t, head] @ given["k"][row, s, group] / WIDTH**0.5
                    + np.log(np.prod(gates[row, s + 1 : t + 1, head]))
                    for s in seen
                ]
                weights = np.exp(logits - np.max(logits))
                out[row, t, head] = weights / weights.sum() @ given["v"][row, seen, group]
    return out


@functools.partial(jax.jit, static_argnames="implementation")
def attended(given, segments, implementation: str = "dense"):
    at = text_coordinates(given["q"].shape[1], segment_ids=segments)
    learned = {name: given[name] for name in ("forget_weight", "forget_bias")}
    features = {"bias": BIAS.features(learned, given["x"], at, jnp.zeros((len(given["q"]), HEADS, 1)))}
    tokens = {"segment_ids": segments, "features": features}
    return lmarch.attend(given["q"], given["k"], given["v"], FOX, implementation=implementation, **tokens)


@pytest.fixture(params=["dense", "tiled"])
def implementation(request, monkeypatch) -> str:
    from lmarch.attention import implementations, tiled

    small = implementations.IMPLEMENTATIONS["tiled"]._replace(attend=functools.partial(tiled.tiled, tile=TILE))
    monkeypatch.setitem(implementations.IMPLEMENTATIONS, "tiled", small)
    jax.clear_caches()
    return request.param


def test_values_and_gradients_are_those_of_the_definition(implementation: str) -> None:
    """Gradients along a random direction, against differences of the definition, in float64."""
    given, direction = tensors(), tensors(1)
    with jax.enable_x64():
        exact = {name: jnp.asarray(value) for name, value in given.items()}

        def objective(exact):
            out = attended(exact, jnp.asarray(SEGMENTS), implementation)
            return jnp.sin(out).sum(), out

        gradients, out = jax.grad(objective, has_aux=True)(exact)
    np.testing.assert_allclose(out, by_definition(given, SEGMENTS), atol=1e-10)
    for name in given:
        both = [
            np.sin(by_definition({**given, name: given[name] + sign * 1e-5 * direction[name]}, SEGMENTS)).sum()
            for sign in (1, -1)
        ]
        ours = float((np.asarray(gradients[name]) * direction[name]).sum())
        assert ours == pytest.approx((both[0] - both[1]) / 2e-5, rel=1e-6), name


def test_a_packed_document_has_the_features_of_the_same_alone_to_the_last_bit() -> None:
    """Wherever it lies: a sum in another order would be rounded in another way."""
    given = {name: jnp.asarray(value, jnp.float32) for name, value in tensors().items()}

    @jax.jit
    def sums(x, segments):
        at = text_coordinates(x.shape[1], segment_ids=segments)
        return BIAS.features(given, x, at, jnp.zeros((len(x), HEADS, 1))).keys

    packed = sums(given["x"], jnp.asarray(SEGMENTS))
    for start, end in ((0, 9), (9, 26), (26, 37)):
        # The products before them are of as many tokens in both.
        moved = jnp.roll(given["x"], -start, axis=1)
        alone = sums(moved, jnp.asarray(np.roll(SEGMENTS, -start, axis=1)))
        assert np.array_equal(packed[0, start:end], alone[0, : end - start])


def test_a_document_changes_no_other(implementation: str) -> None:
    given = {name: jnp.asarray(value, jnp.float32) for name, value in tensors().items()}
    other = {**given, "x": given["x"].at[:, :9].add(1.0)}
    before, after = (attended(some, jnp.asarray(SEGMENTS), implementation) for some in (given, other))
    assert np.array_equal(before[0, 9:], after[0, 9:])
    assert not np.allclose(before[0, :9], after[0, :9])


@pytest.mark.parametrize("architecture", ["prefix_decoder", "encoder", "cross_attention"])
def test_it_is_refused_where_later_keys_are_seen(architecture: str) -> None:
    with pytest.raises(UserError, match="fox"):
        lmarch.attention_spec(position="fox", architecture=architecture, head_dim=8, num_heads=2, trained_length=16)


def test_a_layer_that_reads_content_says_what_it_misses() -> None:
    given = {name: jnp.asarray(value, jnp.float32) for name, value in tensors().items()}
    with pytest.raises(UserError, match="reads content: pass its `features`"):
        lmarch.attend(given["q"], given["k"], given["v"], FOX)
