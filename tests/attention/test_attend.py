"""`lmarch.attend` and `lmarch.attention_spec`: against golden outputs, against perturbation, and with bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import rerope, rope

import lmarch
from lmarch.attention.attend import choose
from lmarch.errors import UserError

GOLDEN = {
    "logits_rope/0": lambda K: rope(K, 2),
    "logits_pi/0": lambda K: rope(K, 2, position="linear:factor=2"),
    "logits_pi/1": lambda K: rope(K, 2, position=dict(name="linear", factor=8)),
    "logits_rerope/0": lambda K: rerope(4, head_dim=K, num_heads=2),
    "logits_rerope/1": lambda K: rerope(8, head_dim=K, num_heads=2),
}


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("case", GOLDEN)
def test_output_equals_the_golden_one(case, head_dim, dtype, tolerance, implementation, golden) -> None:
    with jax.enable_x64(dtype == "float64"):
        q, k, v = (jnp.asarray(golden[f"inputs/{x}_T16_D{head_dim}"].swapaxes(0, 1)[None], dtype) for x in "qkv")
        out = lmarch.attend(q, k, v, GOLDEN[case](head_dim), implementation=implementation)
        expected = golden[f"{case}.T16_D{head_dim}.out"].swapaxes(0, 1)[None]
        np.testing.assert_allclose(out, expected, atol=tolerance)


def random_inputs(length: int = 24) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (1, length, 4, 16)) for key in keys]


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_later_token_changes_no_earlier_output(implementation: str) -> None:
    before = lmarch.attend(*random_inputs(), rope(), implementation=implementation)
    changed = [x.at[:, 15].add(1.0) for x in random_inputs()]
    after = lmarch.attend(*changed, rope(), implementation=implementation)
    assert np.array_equal(before[:, :15], after[:, :15])
    assert not np.allclose(before[:, 15:], after[:, 15:])


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_another_document_changes_nothing(implementation: str) -> None:
    segments = jnp.asarray([[0] * 10 + [1] * 14])
    before = lmarch.attend(*random_inputs(), rope(), implementation=implementation, segment_ids=segments)
    changed = [x.at[:, :10].multiply(3.0) for x in random_inputs()]
    after = lmarch.attend(*changed, rope(), implementation=implementation, segment_ids=segments)
    assert np.array_equal(before[:, 10:], after[:, 10:])


@pytest.mark.parametrize("offset", [1, 1000, 60_000])
def test_shifting_all_positions_changes_nothing(offset: int) -> None:
    q, k, v = random_inputs()
    positions = jnp.arange(24, dtype=jnp.int32)[None]
    before = lmarch.attend(q, k, v, rope(), positions=positions)
    after = lmarch.attend(q, k, v, rope(), positions=positions + offset)
    # float32 angles carry about position * 6e-8 radians.
    np.testing.assert_allclose(before, after, atol=1e-5 + 1e-6 * offset**0.75)


def test_positions_far_past_training_are_finite_and_distinct() -> None:
    q, k, v = random_inputs()
    far = lmarch.attend(q, k, v, rope(), positions=jnp.arange(24, dtype=jnp.int32)[None] * 40_000)
    near = lmarch.attend(q, k, v, rope(), positions=jnp.arange(24, dtype=jnp.int32)[None] * 20_000)
    assert np.isfinite(far).all()
    assert not np.allclose(far, near, atol=1e-3)


def test_auto_says_what_it_picks() -> None:
    assert choose("auto", 128) == "dense"
    assert choose("auto", 4096) == "tiled"
    assert choose("tiled", 8) == "tiled"


BAD_SPECS = {
    "did you mean 'rope'": dict(position="roep"),
    "unknown field 'fctor'": dict(position="ntk:fctor=2"),
    "must be 1 or more": dict(position="linear:factor=0.5"),
    "must be a number": dict(position="ntk:factor=much"),
    "unknown window 'ful'": dict(window="ful"),
    "unknown architecture 'decoder'": dict(architecture="decoder"),
    "target_length=32 is below trained_length=64": dict(target_length=32),
    "make it even": dict(head_dim=7),
    "4 or more": dict(position="ntk", head_dim=2),
}


@pytest.mark.parametrize("message", BAD_SPECS)
def test_bad_specs_are_refused_with_the_reason(message: str) -> None:
    with pytest.raises(UserError) as error:
        rope(**{"head_dim": 16, **BAD_SPECS[message]})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_shapes_that_do_not_fit_are_refused() -> None:
    q, k, v = random_inputs()
    for bad in [(q[:, :, :2], k, v), (q, k[:, :, :3], v[:, :, :3]), (q, k, v[:, :20]), (q, k[:, :20], v[:, :20])]:
        with pytest.raises(UserError):
            lmarch.attend(*bad, rope())
    with pytest.raises(UserError, match="did you mean 'tiled'"):
        lmarch.attend(q, k, v, rope(), implementation="tield")
