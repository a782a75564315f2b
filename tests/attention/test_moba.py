"""Mixture of block attention against its definition, in packed rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import inputs, rope, untraced_attend

from lmarch.attention.spec import AttentionSpec
from lmarch.errors import UserError

LENGTH, BLOCK, TOP = 61, 5, 3
SEGMENTS = np.array([[0] * 7 + [1] * 33 + [2] * 21, [0] * 61])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch) -> None:
    monkeypatch.setattr("lmarch.attention.selection.base.TILE", 16)


def spec(**options) -> AttentionSpec:
    return rope(position="nope", selection=f"moba:block={BLOCK},top={TOP}", **options)


def by_definition(q, k, v, segments: np.ndarray) -> np.ndarray:
    """A loop over rows, heads and queries."""
    out = np.zeros(q.shape)
    for row in range(len(q)):
        starts = [s for s in range(LENGTH) if s == 0 or segments[row, s] != segments[row, s - 1]]
        for t in range(LENGTH):
            start = max(s for s in starts if s <= t)
            own = start + (t - start) // BLOCK * BLOCK
            blocks = [range(b, b + BLOCK) for b in range(start, own, BLOCK)]
            for head in range(q.shape[2]):
                group = head * k.shape[2] // q.shape[2]
                scores = [q[row, t, head] @ k[row, list(block), group].mean(0) for block in blocks]
                best = np.argsort(-np.asarray(scores), kind="stable")[: TOP - 1]
                kept = [s for b in sorted(best) for s in blocks[b]] + list(range(own, t + 1))
                logits = k[row, kept, group] @ q[row, t, head] / q.shape[-1] ** 0.5
                weights = np.exp(logits - logits.max())
                out[row, t, head] = weights / weights.sum() @ v[row, kept, group]
    return out


@functools.partial(jax.jit, static_argnames="implementation")
def attended(q, k, v, segments=None, implementation: str = "dense"):
    return untraced_attend(q, k, v, spec(), implementation=implementation, segment_ids=segments)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_values_and_gradients_are_those_of_the_definition(implementation: str) -> None:
    """Gradients along a random direction, against differences of the definition, in float64; no choice is that close."""
    given, direction = ([np.asarray(x, np.float64) for x in inputs(LENGTH, 2, seed=n)] for n in (0, 1))
    with jax.enable_x64():

        def objective(tensors):
            out = attended(*tensors, jnp.asarray(SEGMENTS), implementation)
            return jnp.sin(out).sum(), out

        gradients, out = jax.grad(objective, has_aux=True)([jnp.asarray(x) for x in given])
    np.testing.assert_allclose(out, by_definition(*given, SEGMENTS), atol=1e-10)
    for which in range(3):
        both = []
        for sign in (1, -1):
            moved = list(given)
            moved[which] = given[which] + sign * 1e-6 * direction[which]
            both.append(np.sin(by_definition(*moved, SEGMENTS)).sum())
        ours = float((np.asarray(gradients[which]) * direction[which]).sum())
        assert ours == pytest.approx((both[0] - both[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_packed_document_attends_as_the_same_alone(implementation: str) -> None:
    """To the last bit, at the same places of a row: what lies beside it changes nothing, its blocks begin where it does."""
    tensors = inputs(LENGTH, 2)
    packed = attended(*tensors, jnp.asarray(SEGMENTS), implementation)
    others = [np.array(x) for x in tensors]
    for x in others:
        x[0, :7], x[0, 40:] = 3.0, -2.0
    assert np.array_equal(packed[0, 7:40], attended(*others, jnp.asarray(SEGMENTS), implementation)[0, 7:40])
    alone = attended(*(np.asarray(x)[:1, 7:40] for x in tensors), implementation=implementation)
    np.testing.assert_allclose(packed[0, 7:40], alone[0], atol=1e-6)


def test_all_blocks_are_full_attention() -> None:
    everything = rope(position="nope", selection=f"moba:block={BLOCK},top=13")
    ours, full = (untraced_attend(*inputs(LENGTH, 2), one) for one in (everything, rope(position="nope")))
    np.testing.assert_allclose(ours, full, atol=1e-6)


def test_the_query_s_own_block_alone_is_a_window_by_blocks() -> None:
    own = rope(position="nope", selection=f"moba:block={BLOCK},top=1")
    out = np.asarray(untraced_attend(*inputs(LENGTH, 4), own))
    first = np.arange(0, LENGTH, BLOCK)
    np.testing.assert_allclose(out[:, first], np.asarray(inputs(LENGTH, 4)[2])[:, first], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "moba:top=0"}, "top=0"),
        ({"selection": "moba:block=0"}, "block=0"),
        ({"selection": "moba", "position": "rerope"}, "without an index map"),
        ({"selection": "moba", "position": "alibi"}, "additive bias"),
        ({"selection": "moba", "architecture": "prefix_decoder"}, "not defined in a prefix decoder"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rope(**options)
