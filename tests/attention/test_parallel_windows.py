"""Parallel context windows: the golden layouts, windows that are what they are alone, a task that sees all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import changed, inputs, learned_values, rope, untraced_attend

from lmarch.attention import implementations
from lmarch.attention.tiled import tiled
from lmarch.errors import UserError
from lmarch.visibility.parallel import Layout, arrange_segments

IMPLEMENTATIONS = ("dense", "tiled")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch) -> None:
    small = implementations.IMPLEMENTATIONS["tiled"]._replace(attend=functools.partial(tiled, tile=16))
    monkeypatch.setitem(implementations.IMPLEMENTATIONS, "tiled", small)


def spec(window: str = "parallel:size=12,task_length=7", **kwargs):
    return rope(window=window, **kwargs)


@functools.partial(jax.jit, static_argnums=3, static_argnames="implementation")
def attend(q, k, v, made, **options):
    return untraced_attend(q, k, v, made, **options)


@pytest.mark.parametrize("case", range(4))
def test_layouts_masks_and_outputs_equal_the_golden_ones(case: int, golden_windows) -> None:
    told = golden_windows.cases["pcw"]["cases"][str(case)]
    ids, positions = arrange_segments(told["window_lens"], told["n_task"], hide_first=told["mask_extra_bos"])
    assert np.array_equal(positions, golden_windows[f"pcw/{case}.pos"])
    assert np.array_equal(np.abs(ids), golden_windows[f"pcw/{case}.window_id"] + 1)
    mask = golden_windows[f"pcw/{case}.mask"].astype(bool)
    length = len(ids)
    where = {"window_ids": ids[None], "positions": positions[None]}
    one_hot = np.eye(length, dtype=np.float32)[None, :, None]
    for implementation in IMPLEMENTATIONS:
        seen = attend(one_hot, one_hot, one_hot, golden_spec(length), implementation=implementation, **where)
        assert np.array_equal(np.asarray(seen)[0, :, 0] > 0, mask)
    for width in (8, 64):
        if f"pcw/{case}.D{width}.q" in golden_windows:
            q, k, v = (golden_windows[f"pcw/{case}.D{width}.{x}"][0][None, :, None].astype(np.float32) for x in "qkv")
            out = attend(q, k, v, golden_spec(width), implementation="dense", **where)
            np.testing.assert_allclose(out[0, :, 0], golden_windows[f"pcw/{case}.D{width}.out"][0], atol=1e-5)


def golden_spec(width: int):
    return spec("parallel:size=4,task_length=4", head_dim=width, num_heads=1, trained_length=64, target_length=256)


@pytest.mark.parametrize(("hide_first", "right"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("length", [1, 7, 8, 19, 31, 40, 44])
def test_a_text_is_cut_into_equal_windows_and_the_rest(length: int, hide_first: bool, right: bool) -> None:
    size, task = 12, 7
    rest = max(0, length - task)
    windows = [size] * (rest // size) + [rest % size] * (rest % size > 0)
    expected = arrange_segments(windows, length - rest, hide_first=hide_first, right=right)
    layout = Layout(size, task, hide_first, right)
    for made, wanted in zip(layout.arrange(np.arange(length), length), expected, strict=True):
        assert np.array_equal(made, wanted)
    assert layout.largest_position(length) == expected[1].max()


@pytest.mark.parametrize(
    ("method", "implementation"),
    [
        *((name, "dense") for name in ("rope", "rerope:window=5", "self_extend:group=2,window=4", "dynamic_ntk")),
        ("alibi", "tiled"),
        ("rerope:window=5", "tiled"),
    ],
)
def test_a_window_is_what_it_is_alone(method: str, implementation: str) -> None:
    # A rotation by the length of the text takes that of the whole text's positions: alone it must be told.
    made, (q, k, v) = spec(position=method), inputs(43)
    learned = learned_values(made)
    options = {"implementation": implementation, "learned": learned}
    out = np.asarray(attend(q, k, v, made, **options))
    for start in (0, 12, 24):
        cut = slice(start, start + 12)
        alone = attend(*(np.asarray(x)[:, cut] for x in (q, k, v)), rope(position=method), **options)
        if method != "dynamic_ntk":
            np.testing.assert_allclose(out[:, cut], alone, atol=1e-5)
    # The task sees every window: a change anywhere moves it, and of the windows only that one.
    for place in (0, 13, 30):
        other = attend(q, k, changed(v, place), made, **options)
        moved = np.abs(other - out).max((0, 2, 3)) > 1e-6
        window = range(place, place // 12 * 12 + 12)
        assert set(np.flatnonzero(moved)) <= {*window, *range(36, 43)}
        assert moved[36:].all()


def test_one_window_is_the_plain_text() -> None:
    made, (q, k, v) = spec("parallel:size=30,task_length=13"), inputs(43)
    np.testing.assert_array_equal(attend(q, k, v, made), attend(q, k, v, rope()))


def test_documents_of_a_row_are_cut_each_for_itself() -> None:
    made, (q, k, v) = spec(), inputs(60)
    segments = jnp.asarray([[0] * 25 + [1] * 35] * 2)
    both = np.asarray(attend(q, k, v, made, segment_ids=segments))
    for cut in (slice(0, 25), slice(25, 60)):
        alone = attend(*(np.asarray(x)[:, cut] for x in (q, k, v)), made)
        np.testing.assert_allclose(both[:, cut], alone, atol=1e-5)


def test_an_encoder_reads_in_blocks() -> None:
    made, (q, k, v) = spec("parallel:size=10", architecture="encoder"), inputs(25)
    out = np.asarray(attend(q, k, v, made))
    for cut in (slice(0, 10), slice(10, 20), slice(20, 25)):
        alone = attend(*(np.asarray(x)[:, cut] for x in (q, k, v)), rope(architecture="encoder"))
        np.testing.assert_allclose(out[:, cut], alone, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_prefix_sees_itself_both_ways_within_its_windows(implementation: str) -> None:
    made, (q, k, v) = spec(architecture="prefix_decoder"), inputs(43)
    out, other = (
        np.asarray(attend(q, k, values, made, prefix_length=30, implementation=implementation))
        for values in (v, changed(v, 20))
    )
    moved = np.abs(other - out).max((0, 2, 3)) > 1e-6
    assert np.array_equal(np.flatnonzero(moved), [*range(12, 24), *range(36, 43)])


def test_what_is_shown_is_what_is_computed() -> None:
    made, (q, k, v) = spec(), inputs(43)
    one_hot = np.eye(43, dtype=np.float32)
    visible = made.visible(43)
    distance = made.effective_distance(43)
    assert distance[~np.isnan(distance)].max() == made.largest_distance(43) == 12 + 7 - 1
    assert made.out_of_design(43) == ("rope in parallel:size=12,task_length=7 uses distance 18 at 43; training saw 15")
    out = attend(q, k, np.broadcast_to(one_hot[None, :, None, :16], v.shape), made)
    assert np.array_equal(np.asarray(out[0, :, 0]) > 0, visible[:, :16])


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("parallel:size=0", "size=0 must be 1"),
        ("parallel:task_length=-1", "task_length=-1"),
        ("parallel:size=4,align=middle", "align"),
    ],
)
def test_impossible_windows_are_refused(window: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec(window)


def test_ids_without_positions_and_without_windows_are_refused() -> None:
    q, k, v = inputs(20)
    ids = jnp.zeros((1, 20), jnp.int32)
    with pytest.raises(UserError, match="window_ids and positions together"):
        untraced_attend(q, k, v, spec(), window_ids=ids)
    with pytest.raises(UserError, match="belong to window 'parallel'"):
        untraced_attend(q, k, v, rope(), window_ids=ids, positions=ids)


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_tiles_are_those_of_the_definition(packed: bool) -> None:
    made, tensors = spec(position="rerope:window=5"), inputs(43)
    segments = jnp.asarray([[0] * 25 + [1] * 18] * 2) if packed else None

    @jax.jit
    def gradients(tensors):
        def loss(tensors, implementation):
            return jnp.sin(untraced_attend(*tensors, made, segment_ids=segments, implementation=implementation)).sum()

        return [jax.grad(loss)(tensors, name) for name in IMPLEMENTATIONS]

    for x, y in zip(*gradients(tensors), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)
