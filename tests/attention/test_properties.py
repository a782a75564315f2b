"""What must hold of every registered position method, without golden numbers: a new method is tested by being registered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import LENGTH, METHODS, allowed, changed, inputs, learned_values, make_operands, rope, untraced_attend

from lmarch.attention.dense import dense
from lmarch.attention.operands import rotated
from lmarch.attention.rotation import make_wave
from lmarch.attention.rotation import rotate as rotate_by
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import Pairs
from lmarch.positions import POSITIONS
from lmarch.registry import variant_name

POSITIONS_1T = jnp.arange(LENGTH, dtype=jnp.int32)[None]


def rotate(x, positions, rotation):
    return rotate_by(x, make_wave(positions, rotation.at(0), rotation, x.dtype))


def attend(spec: AttentionSpec, length: int = LENGTH, **options) -> np.ndarray:
    options = {"learned": learned_values(spec), "implementation": "dense", **options}
    return np.asarray(untraced_attend(*inputs(length), spec, **options))


@pytest.mark.parametrize("name", [name for name in POSITIONS if POSITIONS[name].plain is not None])
def test_a_method_at_its_plain_setting_is_rope(name: str) -> None:
    spec = rope(position={"name": name, **POSITIONS[name].plain}, trained_length=LENGTH, target_length=LENGTH)
    np.testing.assert_allclose(attend(spec), attend(rope()), atol=1e-5)
    if spec.position.rotation and len(spec.branches) > 1:
        np.testing.assert_allclose(spec.effective_distance(LENGTH), rope().effective_distance(LENGTH), atol=1e-12)


@pytest.mark.parametrize(
    "name", ["dynamic_ntk", "dynamic_ntk:factor=4", "rerope:window=60", "self_extend:window=60,group=4"]
)
def test_a_method_within_its_reach_is_rope(name: str) -> None:
    ours = attend(rope(position=name, trained_length=LENGTH, target_length=LENGTH))
    np.testing.assert_allclose(ours, attend(rope()), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_visible_pair_lies_in_one_branch_and_every_other_contributes_nothing(method: str) -> None:
    for architecture in ("causal_decoder", "encoder"):
        if method not in allowed(architecture):
            continue
        for window in ("full", "sliding:size=9", "streaming:size=9,sinks=3", "lm_infinite:size=9,sinks=3"):
            spec = rope(position=method, architecture=architecture, window=window)
            index = np.arange(LENGTH)
            pairs = Pairs.of(*((index[:, None], index[None]),) * 3)
            count = sum(branch.region.contains(pairs).astype(int) for branch in spec.branches)
            visible = spec.visible(LENGTH)
            assert (count[visible] == 1).all(), (architecture, window)
            assert visible.any(-1).all()  # no query is blind
            assert (visible == (spec.visibility.contains(pairs) & (count > 0))).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_pair_that_is_not_visible_contributes_nothing(method: str) -> None:
    spec = rope(position=method, window="streaming:size=9,sinks=3")
    hidden = ~spec.visible(LENGTH)[40]
    q, k, v = inputs(LENGTH)
    options = {"learned": learned_values(spec), "implementation": "dense"}
    other = untraced_attend(q, *(changed(x, hidden, 100.0) for x in (k, v)), spec, **options)
    assert np.array_equal(attend(spec)[:, 40], np.asarray(other)[:, 40])


@pytest.mark.parametrize("method", METHODS)
def test_shift_invariance_is_as_declared(method: str) -> None:
    """Embeddings see the positions too, but attention itself does not."""
    spec, cls = rope(position=method), POSITIONS[variant_name(method)]
    if spec.position.embedding:
        assert not cls.shift_invariant
        return
    # What depends on the length of the text would take a shift for a longer text: compare inside training.
    by_length = spec.position.rotation is not None and spec.position.rotation.by_length is not None
    if by_length:
        spec = rope(position=method, trained_length=1000, target_length=1000)
    before, after = attend(spec), attend(spec, positions=POSITIONS_1T + 37)
    assert np.allclose(before, after, atol=2e-5) == cls.shift_invariant


@pytest.mark.parametrize("window", ["full", "streaming:size=9,sinks=3"])
@pytest.mark.parametrize("method", METHODS)
def test_what_follows_changes_nothing_before_it(method: str, window: str) -> None:
    """A text of 60 tokens has the outputs of its first 40 alone, unless the method depends on the text's length."""
    spec = rope(position=method, window=window)
    options = {"learned": learned_values(spec), "implementation": "dense"}
    alone = untraced_attend(*(jnp.asarray(np.asarray(x)[:, :40]) for x in inputs(LENGTH)), spec, **options)
    by_length = spec.position.rotation is not None and not np.array_equal(*map(spec.position.rotation.at, (40, LENGTH)))
    assert np.allclose(attend(spec)[:, :40], alone, atol=2e-5) != by_length


@pytest.mark.parametrize(
    ("position", "window"),
    [
        ("rope", "sliding:size=9"),
        ("rope", "streaming:size=9,sinks=3"),
        ("rope", "lm_infinite:size=9,sinks=3,ceiling=6"),
        ("alibi", "streaming:size=9,sinks=3"),  # a bias asks the branch where its tokens are, a rotation turns them
    ],
)
def test_windows_do_not_depend_on_where_positions_begin(position: str, window: str) -> None:
    spec = rope(position=position, window=window)
    np.testing.assert_allclose(attend(spec, positions=POSITIONS_1T + 100), attend(spec), atol=2e-5)


@pytest.mark.parametrize(("method", "step"), [("self_extend:group=4,window=8", 4), ("dual_chunk:chunk=12", 12)])
def test_shifts_by_whole_groups_and_chunks_change_nothing(method: str, step: int) -> None:
    spec = rope(position=method)
    before = attend(spec)
    np.testing.assert_allclose(attend(spec, positions=POSITIONS_1T + 5 * step), before, atol=2e-5)
    assert not np.allclose(attend(spec, positions=POSITIONS_1T + 5 * step + 1), before, atol=1e-3)


@pytest.mark.parametrize("method", ["rerope:window=8", "leaky_rerope:window=8,k=3"])
def test_both_branches_agree_at_their_border(method: str) -> None:
    """At d = w the near and the far branch give the same logit, so `<` and `<=` cannot differ."""
    spec = rope(position=method)
    q, k, v = inputs(LENGTH)
    both = rotated(make_operands(q, k, v, spec), spec)
    near, far = (np.einsum("BTGRK,BGSK->BGRTS", q_, k_) for q_, k_ in zip(both.queries, both.keys, strict=True))
    border = np.arange(8, LENGTH), np.arange(LENGTH - 8)
    np.testing.assert_allclose(near[..., *border], far[..., *border], atol=1e-4)
    assert not np.allclose(near, far, atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_angles_are_float32_accurate_up_to_a_million(dtype: str) -> None:
    """Against float64: the rounding of one float32 product t * theta, in any compute dtype; far away no more than 2^-11.

    That is what is left of positions in strides of 4096: (4096 + 2 * 2 pi * 244 strides) 2^-24.
    """
    rotation = rope(head_dim=64).position.rotation
    positions = np.array([1, 1000, 65_535, 1_000_000])
    unit = np.broadcast_to(np.arange(64) < 32, (1, 4, 1, 64)).astype(dtype)  # its rotation is (cos, sin)
    turned = jax.jit(lambda x, at: rotate(x, at, rotation))(unit, positions[None])
    turned = np.asarray(turned, np.float64)[0, :, 0]
    angles = positions[:, None] * np.asarray(rotation.inverse_frequencies)
    error = np.hypot(turned[:, :32] - np.cos(angles), turned[:, 32:] - np.sin(angles))
    rounding = 2.0**-8 if dtype == "bfloat16" else 2.0**-22
    assert (error <= np.minimum(angles * 2.0**-23, 2.0**-11) + rounding).all()


@pytest.mark.parametrize("method", METHODS)
def test_far_positions_are_finite(method: str) -> None:
    spec = rope(position=method)
    if spec.position.longest is not None:
        return  # it says so, and refuses
    assert np.isfinite(attend(spec, positions=POSITIONS_1T * 16_000)).all()


def test_xpos_is_exact_up_to_the_length_it_allows() -> None:
    spec = rope(position="xpos")
    longest = spec.position.longest
    positions = np.linspace(0, longest - 1, LENGTH).astype(np.int32)[None]
    assert np.isfinite(attend(spec, positions=jnp.asarray(positions))).all()
    last = jnp.asarray(longest - LENGTH + np.arange(LENGTH, dtype=np.int32))[None]
    np.testing.assert_allclose(attend(spec, positions=last), attend(spec), atol=2e-2)


def test_a_bidirectional_layer_without_positions_is_blind_to_order() -> None:
    """Why `nope` is refused there; a causal one does see order."""
    order = np.random.default_rng(0).permutation(LENGTH)
    tensors = inputs(LENGTH)
    permuted = [jnp.asarray(np.asarray(x)[:, order]) for x in tensors]
    for architecture, blind in (("encoder", True), ("causal_decoder", False)):
        spec = rope(architecture="causal_decoder", position="nope")
        spec = spec.__class__(**{**vars(spec), "visibility": rope(architecture=architecture).visibility})
        out, other = (np.asarray(dense(make_operands(*x, spec), spec)[0]) for x in (tensors, permuted))
        assert np.allclose(out[:, order], other, atol=1e-6) == blind


def test_a_row_constant_temperature_keeps_the_favourite_key() -> None:
    q, k, _ = inputs(LENGTH)
    for temperature in ("yarn", "ssmax", "log_n"):
        spec = rope(position={"name": "rope", "temperature": temperature})
        plain, heated = (rotated(make_operands(q, k, k, s, learned=learned_values(s)), s) for s in (rope(), spec))
        logits = [np.einsum("BTGRK,BGSK->BGRTS", o.queries[0], o.keys[0]) for o in (plain, heated)]
        assert np.array_equal(*(np.argmax(x[..., 1:, :], -1) for x in logits))


@pytest.mark.parametrize("head_dim", [8, 64])
def test_rotations_equal_those_of_hugging_face(head_dim: int, golden) -> None:
    prefix = f"rotary_apply_hf/T16_D{head_dim}"
    q = golden[f"{prefix}.q"].swapaxes(0, 1)[None]
    positions = jnp.arange(16)[None]
    whole, partial = (rope(head_dim, position=p).position.rotation for p in ("rope", "partial:fraction=0.25"))
    order = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])

    @jax.jit
    def turned(q, reordered):
        at_100 = rotate(q[:, :1], jnp.asarray([[100]]), whole)
        both = [rotate(x, positions, whole) for x in (q, reordered)]
        return [x[0].swapaxes(0, 1) for x in (*both, at_100, rotate(q, positions, partial))]

    half, interleaved, at_100, neox = turned(q, q[..., order])
    np.testing.assert_allclose(half, golden[f"{prefix}.half.q"], atol=1e-5)
    np.testing.assert_allclose(interleaved, golden[f"{prefix}.interleaved.q"][..., order], atol=1e-5)
    np.testing.assert_allclose(at_100, golden[f"{prefix}.half.q_at100"], atol=1e-5)
    np.testing.assert_allclose(partial.inverse_frequencies, golden[f"{prefix}.neox_partial0.25.inv_freq"], rtol=1e-6)
    np.testing.assert_allclose(neox, golden[f"{prefix}.neox_partial0.25.q"], atol=1e-5)
