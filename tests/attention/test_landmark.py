"""Landmark attention: golden weights, blocks chosen and placed as a loop over the definition does it, the same in caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import inputs, rope, untraced_attend
from test_selection import (  # noqa: F401
    CUT,
    attend,
    best,
    in_pieces,
    of_pairs,
    small_tiles,
    softmax,
    turned_round,
    values_and_gradients,
)

from lmarch.attention.spec import AttentionSpec
from lmarch.errors import UserError

LENGTH, BLOCK, LOCAL, TOP = 61, 4, 2, 2
WIDTH, CHUNK = BLOCK + 1, LOCAL * (BLOCK + 1)
TRAINED, RETRIEVING = f"landmark:block={BLOCK}", f"landmark:block={BLOCK},top={TOP},local={LOCAL}"
EACH = pytest.mark.parametrize("selection", [TRAINED, RETRIEVING])
BOTH = pytest.mark.parametrize("implementation", ["dense", "tiled"])
CASES = pytest.mark.parametrize("case", ["T16_D8", "T40_D8"])


def spec(selection: str = TRAINED, **options) -> AttentionSpec:
    return rope(selection=selection, **options)


def weights_of(made: AttentionSpec, q, k, implementation: str = "dense", **options) -> np.ndarray:
    """Of each pair in each head, [B, T, H, S]: attention to one-hot values, as many keys at a time as heads are wide."""
    length, width = k.shape[1:4:2]

    @jax.jit
    def weights(values):
        return untraced_attend(q, k, values, made, implementation=implementation, **options)

    parts = []
    for first in range(0, length, width):
        one_hot = np.eye(length, width, -first, dtype=np.float32)[None, :, None]
        parts.append(weights(np.broadcast_to(one_hot, k.shape)))
    return np.concatenate(parts, axis=-1)[..., :length]


@BOTH
@CASES
def test_weights_equal_the_golden_ones(case: str, implementation: str, golden_windows) -> None:
    q, k, v, weights, out, marks = (
        golden_windows[f"selection/landmark.{case}.{name}"] for name in ("q", "k", "v", "weights", "out", "is_landmark")
    )
    heads, _, width = q.shape
    assert np.array_equal(np.flatnonzero(marks) % WIDTH, np.full(marks.sum(), BLOCK))
    q, k, v = (jnp.asarray(x.transpose(1, 0, 2)[None], jnp.float32) for x in (q, k, v))
    made = rope(width, heads, selection=TRAINED)
    found = weights_of(made, q, k, implementation)[0].swapaxes(0, 1)
    np.testing.assert_allclose(found, weights, atol=1e-5)
    np.testing.assert_allclose(attend(made, q, k, v, implementation)[0].swapaxes(0, 1), out, atol=1e-5)


@EACH
@BOTH
def test_rows_sum_to_one_and_landmarks_get_nothing(selection: str, implementation: str) -> None:
    q, k, _ = inputs(LENGTH)
    found = weights_of(spec(selection), 3 * np.asarray(q), 3 * np.asarray(k), implementation)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert (found[..., BLOCK::WIDTH] == 0).all()
    assert (found >= 0).all()


@EACH
def test_tiles_equal_the_whole_matrix(selection: str) -> None:
    """Values and gradients, with grouped heads."""
    made, tensors = spec(selection), inputs(LENGTH, 2)
    outs, gradients = values_and_gradients(made, tensors)
    np.testing.assert_allclose(*outs, atol=1e-5)
    for x, y in zip(*gradients, strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    """Through the shares of blocks too."""
    made, (q, k, v) = spec(), inputs(17, rows=1)
    rng = np.random.default_rng(5)

    @jax.jit
    def loss(q, k):
        return (untraced_attend(q, k, v, made, implementation="dense") * v).sum()

    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(x, jnp.float64) for x in (q, k, v))
        directions = [jnp.asarray(rng.standard_normal(x.shape)) for x in (q, k)]
        _, slope = jax.jvp(loss, (q, k), tuple(directions))
        step = 1e-5
        ends = [loss(*(x + sign * step * d for x, d in zip((q, k), directions, strict=True))) for sign in (1, -1)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


@EACH
@BOTH
@pytest.mark.parametrize("changed", [7, 20, 24, 33, 34, 35])
def test_nothing_before_a_token_rests_on_it(selection: str, implementation: str, changed: int) -> None:
    """Bitwise, landmarks (24, 34) among them."""
    made, (q, k, v) = spec(selection), inputs(LENGTH, 2)
    before = attend(made, q, k, v, implementation)
    after = attend(made, *(turned_round(x, changed) for x in (q, k, v)), implementation)
    assert np.array_equal(before[:, :changed], after[:, :changed])
    assert not np.allclose(before[:, changed:], after[:, changed:])


def shares_by_definition(logits_S: np.ndarray, seen: list[int], t: int) -> np.ndarray:
    """Weights [S] of a query at index t that sees keys `seen`: a softmax over blocks and one inside of each."""
    weights, block = np.zeros_like(logits_S), t // WIDTH
    own = [s for s in seen if s // WIDTH == block and s % WIDTH != BLOCK]
    marks = [s for s in seen if s // WIDTH < block and s % WIDTH == BLOCK]
    marks = [mark for mark in marks if mark - 1 in seen]
    if own + marks:
        shares = softmax(logits_S[own + marks])
        weights[own] = shares[: len(own)]
        for share, mark in zip(shares[len(own) :], marks, strict=True):
            inside = [s for s in seen if mark - BLOCK <= s < mark]
            weights[inside] = share * softmax(logits_S[inside])
    return weights


OWNERS = np.repeat(np.arange(6), [7, 10, 2, 19, 2, 21])  # borders in blocks, before a landmark, behind one


@BOTH
def test_documents_of_a_row_do_not_meet(implementation: str) -> None:
    """Wherever their borders are in blocks: a landmark shares out among the tokens of its own document."""
    q, k, v = inputs(LENGTH, rows=1)
    packed = {"segment_ids": jnp.asarray(OWNERS)[None]}
    found = weights_of(spec(), q, k, implementation, **packed)[0]
    logits = of_pairs(spec(), q, k, v)[0].astype(np.float64)
    for t in range(LENGTH):
        seen = [s for s in range(t + 1) if OWNERS[s] == OWNERS[t]]
        for head in range(4):
            expected = shares_by_definition(logits[head, t], seen, t)
            np.testing.assert_allclose(found[t, head], expected, atol=1e-5, err_msg=str((t, head)))

    attend_in_documents = jax.jit(lambda *x: untraced_attend(*x, spec(), implementation=implementation, **packed)[0])
    before = np.asarray(attend_in_documents(q, k, v))
    for document in range(6):
        inside = np.equal(OWNERS, document)
        after = np.asarray(attend_in_documents(*(turned_round(x, inside) for x in (q, k, v))))
        assert np.array_equal(before[~inside], after[~inside])
        assert not np.allclose(before[inside], after[inside])


def rotated(x: np.ndarray, position: int) -> np.ndarray:
    """[K]"""
    half = len(x) // 2
    angles = position * 10_000.0 ** (-np.arange(half) / half)
    first, second = x[:half], x[half:]
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    )


def retrieved_by_a_loop(q: np.ndarray, k: np.ndarray, v: np.ndarray, top: int, t: int) -> tuple[np.ndarray, list[int]]:
    """One query of one head, straight from the description: keys turned for the slot of their block, two softmaxes."""
    memory, start = t // CHUNK * LOCAL, t // CHUNK * CHUNK
    slots = min(memory, top + 1)
    at = slots * WIDTH + t - start

    def logit(s: int, position: int) -> float:
        return rotated(q[t], at) @ rotated(k[s], position) / len(q[t]) ** 0.5

    recent = range(max(0, memory - top), memory)
    true_slot = {b: slots - (memory - b) for b in recent}
    scores = {b: logit(b * WIDTH + BLOCK, true_slot.get(b, 0) * WIDTH + BLOCK) for b in range(memory)}
    chosen = sorted(best(scores, top))
    old, new = [b for b in chosen if b not in recent], [b for b in chosen if b in recent]
    slot_of = {b: slot for slot, b in enumerate(old)} | {b: slots - len(new) + n for n, b in enumerate(new)}
    for own in range(memory, t // WIDTH):
        slot_of[own] = slots + own - memory  # of the chunk, before the query's
    place = {b * WIDTH + j: slot * WIDTH + j for b, slot in slot_of.items() for j in range(WIDTH)}
    own = [s for s in range(t // WIDTH * WIDTH, t + 1) if s % WIDTH != BLOCK]
    blocks = sorted(slot_of)
    shares = softmax(
        np.array(
            [logit(s, slots * WIDTH + s - start) for s in own]
            + [logit(b * WIDTH + BLOCK, place[b * WIDTH + BLOCK]) for b in blocks]
        )
    )
    out = shares[: len(own)] @ v[own]
    for share, b in zip(shares[len(own) :], blocks, strict=True):
        inside = [b * WIDTH + j for j in range(BLOCK)]
        out += share * softmax(np.array([logit(s, place[s]) for s in inside])) @ v[inside]
    return out, chosen


@BOTH
@pytest.mark.parametrize("top", [1, 2, 3])
def test_blocks_are_chosen_and_placed_as_the_definition_says(top: int, implementation: str) -> None:
    made, (q, k, v) = spec(f"landmark:block={BLOCK},top={top},local={LOCAL}"), inputs(LENGTH, 2, rows=1)
    out = attend(made, q, k, v, implementation)[0]
    q, k, v = (np.asarray(x[0], np.float64) for x in (q, k, v))
    kinds = set()
    for t in range(0, LENGTH, 3):
        for head in range(4):
            expected, chosen = retrieved_by_a_loop(q[:, head], k[:, head // 2], v[:, head // 2], top, t)
            np.testing.assert_allclose(out[t, head], expected, atol=1e-5, err_msg=str((t, head)))
            memory = t // CHUNK * LOCAL
            kinds.add((any(b < memory - top for b in chosen), any(b >= memory - top for b in chosen)))
    assert kinds >= {(False, True), (True, False)}  # old and recent blocks were met
    assert top == 1 or (True, True) in kinds


@pytest.mark.parametrize(
    ("position", "chunks"),
    [("rope", (1, 5)), ("nope", (2,)), ("linear:factor=2", (2,)), ("partial:fraction=0.5", (2,))],
)
def test_as_many_blocks_as_there_are_is_all_of_them(position: str, chunks: tuple[int, ...]) -> None:
    """Then positions are plain, whatever a chunk is; a sink, a soft-cap and a scale of the rotation are met on the way."""
    q, k, v = inputs(LENGTH, 2)
    options = dict(position=position, softcap=2.0)
    expected = attend(spec(**options), q, k, v)
    for local in chunks:
        retrieving = spec(f"landmark:block={BLOCK},top=12,local={local}", **options)
        np.testing.assert_allclose(attend(retrieving, q, k, v, "tiled"), expected, atol=2e-5)


def test_the_scale_of_a_rotation_counts_once() -> None:
    q, k, v = inputs(LENGTH, 2)
    expected = attend(spec(position="yarn:factor=4"), q, k, v)
    found = attend(spec(f"landmark:block={BLOCK},top=12,local=2", position="yarn:factor=4"), q, k, v)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_equal_landmarks_go_to_the_earlier_block() -> None:
    made, (q, k, _) = spec(RETRIEVING, position="nope"), inputs(LENGTH)
    k = np.array(k)
    k[:, BLOCK::WIDTH] = k[:, BLOCK : BLOCK + 1]
    memory = weights_of(made, q, k)[:, 50:60, :, :50]
    assert (memory[..., [0, 1, 2, 3, 5, 6, 7, 8]] > 0).all()
    assert (memory[..., 10:] == 0).all()


def test_no_position_is_beyond_the_slots_and_the_chunk() -> None:
    made = spec(RETRIEVING)
    assert made.largest_distance(10_000) == (TOP + 1) * WIDTH + CHUNK - 1
    assert made.bounded
    assert made.out_of_design(10_000) is not None  # 24 positions, and training saw 16
    assert rope(selection=RETRIEVING, trained_length=25).out_of_design(10_000) is None
    assert not spec().bounded


@EACH
@pytest.mark.parametrize("sizes", CUT, ids=len)
def test_a_cache_attends_as_the_whole_text_does(selection: str, sizes: list[int]) -> None:
    made, (q, k, v) = spec(selection), inputs(LENGTH, 2)
    found, _ = in_pieces(made, q, k, v, sizes)
    np.testing.assert_allclose(found, attend(made, q, k, v), atol=1e-4)


@EACH
def test_a_learned_sink_takes_its_share_of_the_regrouped_softmax(selection: str) -> None:
    q, k, v = inputs(LENGTH)
    made, learned = spec(selection, sink=True), {"sink_logit": jnp.asarray([-1.0, 0.0, 1.0, 50.0])}
    attend_with_sink = jax.jit(lambda v: untraced_attend(q, k, v, made, implementation="dense", learned=learned))
    with_sink, weights = attend_with_sink(v), np.asarray(attend_with_sink(np.ones_like(v)))[..., 0]
    np.testing.assert_allclose(with_sink, weights[..., None] * attend(spec(selection), q, k, v), atol=1e-5)
    assert (weights[..., 3] < 1e-6).all()
    assert (weights[..., :3] > 0.01).all()
    assert (weights[..., :3] < 0.999).all()


def test_the_first_block_is_attended_to_as_usual() -> None:
    q, k, v = inputs(BLOCK)
    np.testing.assert_allclose(attend(spec(), q, k, v), attend(rope(), q, k, v), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "landmark:block=0"}, "block=0"),
        ({"selection": "landmark:top=0"}, "top=0"),
        ({"selection": "landmark:top=2,local=0"}, "local=0"),
        ({"architecture": "prefix_decoder"}, "not defined in a prefix decoder"),
        ({"architecture": "encoder"}, "not defined in an encoder"),
        ({"architecture": "cross_attention", "position": "nope"}, "cross-attention"),
        ({"window": "sliding"}, "local window of its own"),
        ({"position": "xpos"}, "for each query anew"),
        ({"position": "dynamic_ntk:form=stepwise"}, "for each query anew"),
        ({"selection": RETRIEVING, "position": "rerope"}, "without an index map"),
        ({"selection": RETRIEVING, "position": "alibi"}, "bias"),
        ({"selection": RETRIEVING, "position": "learned:size=128"}, "embeddings cannot follow"),
        ({"selection": RETRIEVING, "position": "dynamic_ntk"}, "same frequencies at any length"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec(**options)


def test_retrieval_is_of_one_text_at_its_own_positions() -> None:
    q, k, v = inputs(20)
    with pytest.raises(UserError, match="one text a row"):
        untraced_attend(q, k, v, spec(RETRIEVING), segment_ids=jnp.zeros((1, 20), jnp.int32))
    with pytest.raises(UserError, match="leave positions out"):
        untraced_attend(q, k, v, spec(RETRIEVING), positions=jnp.arange(20)[None])
    with pytest.raises(UserError, match="no selection"):
        untraced_attend(q, k, v, spec(), implementation="fused")


def test_any_position_method_may_be_trained_with_landmarks() -> None:
    """The shares are made of whatever the logits are: a bias, an index map."""
    q, k, v = inputs(LENGTH)
    for position in ("alibi", "rerope:window=6", "dual_chunk:chunk=10,max_position=13"):
        made = spec(position=position)
        logits, visible = of_pairs(made, q, k, v)
        assert visible[60, : LENGTH - 1].all()
        out = attend(made, q, k, v, "tiled")[0]
        for t in (13, 14, 15, 44, 60):
            for head in range(4):
                weights = shares_by_definition(logits[head, t].astype(np.float64), list(range(t + 1)), t)
                np.testing.assert_allclose(out[t, head], weights @ np.asarray(v)[0, :, head], atol=1e-5)
