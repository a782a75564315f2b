"""Token selection: golden choices, everything chosen is full attention, brute-force choices, and no look into the future."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import inputs, make_operands, rope, untraced_attend

from lmarch.attention.coordinates import Coordinates
from lmarch.attention.dense import scores
from lmarch.attention.key_value_cache import Reading, empty_cache
from lmarch.attention.operands import rotated
from lmarch.attention.spec import AttentionSpec
from lmarch.errors import UserError

LENGTH = 61
SELECTIONS = {
    "knn": "knn:local=8,top=5",
    "infllm": "infllm:local=9,sinks=3,block=4,top=2,representatives=2",
    "quest": "quest:page=4,budget=16,prefill=selected",
    "moba": "moba:block=6,top=3",
}
EVERYTHING = {
    "knn": "knn:local=8,top=none",
    "infllm": "infllm:local=9,sinks=3,block=4,top=none,representatives=2",
    "quest": "quest:page=4,budget=1000,prefill=selected",
    "moba": "moba:block=6,top=20",
}
IMPLEMENTATIONS = ("dense", "tiled")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch) -> None:
    monkeypatch.setattr("lmarch.attention.selection.base.TILE", 16)


def spec(selection: str, **kwargs) -> AttentionSpec:
    return rope(selection=selection, **kwargs)


@functools.partial(jax.jit, static_argnums=(3, 4))
def attention(q, k, v, made: AttentionSpec, implementation: str) -> jax.Array:
    return untraced_attend(q, k, v, made, implementation=implementation)


def attend(made: AttentionSpec, q, k, v, implementation: str = "dense") -> np.ndarray:
    return np.asarray(attention(q, k, v, made, implementation))


def values_and_gradients(made: AttentionSpec, tensors) -> tuple[list, list]:
    """In each implementation: outputs, and gradients of a sum over them."""

    @jax.jit
    def both(tensors):
        def loss(tensors, implementation):
            out = attention(*tensors, made, implementation)
            return jnp.sin(out).sum(), out

        return [jax.grad(loss, has_aux=True)(tensors, implementation) for implementation in IMPLEMENTATIONS]

    gradients, outs = zip(*both(tensors), strict=True)
    return list(outs), list(gradients)


def of_pairs(made: AttentionSpec, q, k, v) -> tuple[np.ndarray, np.ndarray]:
    """Logits of all pairs in one head each, [H, T, S] of the first row, and which the mask lets through [T, S]."""

    @jax.jit
    def all_scores(*tensors):
        operands = make_operands(*tensors, made)
        return scores(rotated(operands, made), operands, made)

    logits, visible = all_scores(q, k, v)
    return np.asarray(logits[0]).reshape(4, q.shape[1], -1), np.asarray(visible[0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_chosen_is_full_attention(name: str, implementation: str) -> None:
    """With the same distances: those of the far keys are the selection's own."""
    made, (q, k, v) = spec(EVERYTHING[name]), inputs(LENGTH, 2)
    full = dataclasses.replace(made, selection=None)
    np.testing.assert_allclose(attend(made, q, k, v, implementation), attend(full, q, k, v), atol=1e-5)
    if name == "quest":
        np.testing.assert_allclose(attend(made, q, k, v), attend(rope(), q, k, v), atol=1e-5)
    wide = spec("knn:local=64,top=3" if name == "knn" else "infllm:local=64" if name == "infllm" else EVERYTHING[name])
    np.testing.assert_allclose(attend(wide, q, k, v), attend(rope(), q, k, v), atol=1e-5)


@pytest.mark.parametrize("name", SELECTIONS)
def test_tiles_choose_what_the_whole_matrix_does(name: str) -> None:
    made, tensors = spec(SELECTIONS[name]), inputs(LENGTH, 2)
    outs, gradients = values_and_gradients(made, tensors)
    np.testing.assert_allclose(*outs, atol=1e-5)
    assert np.abs(outs[0] - attend(dataclasses.replace(made, selection=None), *tensors)).max() > 0.1  # it does choose
    for x, y in zip(*gradients, strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, atol=2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("changed", [7, 20, 33, 34, 35])
def test_no_choice_rests_on_what_comes_later(name: str, implementation: str, changed: int) -> None:
    """Bitwise: queries, keys and values of a token move nothing before it, statistics of its block and page included."""
    made, (q, k, v) = spec(SELECTIONS[name]), inputs(LENGTH, 2)
    before = attend(made, q, k, v, implementation)
    after = attend(made, *(turned_round(x, changed) for x in (q, k, v)), implementation)
    assert np.array_equal(before[:, :changed], after[:, :changed])
    assert not np.allclose(before[:, changed:], after[:, changed:])


def turned_round(x: jax.Array, where) -> np.ndarray:
    """x with some of its tokens turned round and made long."""
    other = np.array(x)
    other[:, where] *= -9.0
    return other


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def best(scores: dict[int, float], count: int) -> set[int]:
    """The `count` largest, of equal ones the earlier."""
    return set(sorted(scores, key=lambda place: (-scores[place], place))[:count])


def test_knn_keeps_the_best_keys_of_each_head() -> None:
    local, top = 8, 5
    made, (q, k, v) = spec(SELECTIONS["knn"]), map(np.asarray, inputs(LENGTH))
    logits, _ = of_pairs(made, q, k, v)
    out = attend(made, q, k, v)[0]
    for head in range(4):
        for t in range(LENGTH):
            context = t // local * local
            kept = sorted(best({s: logits[head, t, s] for s in range(context)}, top) | set(range(context, t + 1)))
            expected = softmax(logits[head, t, kept]) @ v[0, kept, head]
            np.testing.assert_allclose(out[t, head], expected, atol=1e-5)


def test_equal_scores_go_to_the_earlier_key() -> None:
    made, (q, k, v) = spec("knn:local=8,top=3"), inputs(LENGTH)
    k = np.array(k)
    k[:, :40] = k[:, :1]  # memory keys are unturned: all score the same
    one_hot = np.broadcast_to(np.eye(LENGTH, 16, dtype=np.float32)[None, :, None], v.shape)
    weights = attend(made, q, k, one_hot)[0, 40:48]
    assert (weights[..., :3] > 0).all()
    assert (weights[..., 3:16] == 0).all()


def test_infllm_keeps_sinks_left_over_tokens_and_the_best_blocks() -> None:
    local, sinks, block, top, representatives = 9, 3, 4, 2, 2
    made, (q, k, v) = spec(SELECTIONS["infllm"]), map(np.asarray, inputs(LENGTH, 2))
    logits, _ = of_pairs(made, q, k, v)
    out = attend(made, q, k, v)[0]
    for t in range(LENGTH):
        # The mean over queries that had the key in their local window: all of them have come by when a block is left.
        asked = np.zeros((2, LENGTH))
        for group in range(2):
            for s in range(LENGTH):
                asked[group, s] = sum(
                    logits[2 * group + repeat, u, s] for repeat in range(2) for u in range(s + 1, min(s + local, t + 1))
                )
        blocks = {}
        for first in range(sinks, t, block):
            members = range(first, first + block)
            if t - members[-1] >= local:
                represent = {g: best({s: asked[g, s] for s in members}, representatives) for g in range(2)}
                blocks[first] = sum(logits[2 * g + r, t, s] for g in range(2) for r in range(2) for s in represent[g])
        chosen = best(blocks, top)
        dropped = {s for first in blocks if first not in chosen for s in range(first, first + block)}
        kept = [s for s in range(t + 1) if s not in dropped]
        for head in range(4):
            expected = softmax(logits[head, t, kept]) @ v[0, kept, head // 2]
            np.testing.assert_allclose(out[t, head], expected, atol=1e-5, err_msg=str((t, head)))


def test_quest_keeps_the_pages_with_the_largest_bounds() -> None:
    page, pages = 4, 4
    made, (q, k, v) = spec(SELECTIONS["quest"]), map(np.asarray, inputs(LENGTH, 2))
    both = rotated(make_operands(q, k, v, made), made)
    queries, keys = np.asarray(both.queries[0][0]), np.asarray(both.keys[0][0])
    out = attend(made, q, k, v)[0]
    for t in range(LENGTH):
        for head in range(4):
            query, group = queries[t, head // 2, head % 2], keys[head // 2]
            bounds = {}
            for first in range(0, t + 1, page):
                members = group[first : min(first + page, t + 1)]
                bounds[first] = np.maximum(query * members.min(0), query * members.max(0)).sum()
            chosen = best(bounds, pages)
            kept = [s for s in range(t + 1) if s // page * page in chosen]
            expected = softmax(group[kept] @ query / 4) @ v[0, kept, head // 2]
            np.testing.assert_allclose(out[t, head], expected, atol=1e-5)


@pytest.mark.parametrize("case", ["T128_D8_p16_b64", "T120_D64_p16_b32", "T40_D8_p16_b16"])
def test_a_decoding_step_of_quest_equals_the_golden_one(case: str, golden_windows) -> None:
    """Its keys are turned already: those of nope are, as they are."""
    q, k, v, selected = (golden_windows[f"selection/quest.{case}.{name}"] for name in ("q", "k", "v", "selected"))
    heads, length, width = k.shape
    page, budget = (int(part[1:]) for part in case.split("_")[2:])
    made = rope(width, heads, position="nope", selection=f"quest:page={page},budget={budget}")
    turn = lambda x: jnp.asarray(x.transpose(1, 0, 2)[None], jnp.float32)  # noqa: E731
    queries = jnp.zeros((1, length, heads, width)).at[0, -1].set(q)
    out, statistics = in_pieces(made, queries, turn(k), turn(v), [length - 1, 1])
    np.testing.assert_allclose(out[0, -1], golden_windows[f"selection/quest.{case}.out"], atol=1e-5)
    bounds = made.selection.bounds(jnp.asarray(q)[None, :, None, None], statistics["low"], statistics["high"])
    np.testing.assert_allclose(
        bounds[0, :, 0, 0], golden_windows[f"selection/quest.{case}.page_upper_bound"], atol=1e-4
    )
    assert selected.sum(-1).max() == min(max(3, min(length, budget) // page), -(-length // page))


@pytest.mark.parametrize("distance", ["paper", "code"])
def test_distances_of_infllm_equal_the_golden_ones(distance: str, golden_windows) -> None:
    told, mask = golden_windows.cases["selection"]["infllm"], golden_windows["selection/infllm.mask"].astype(bool)
    made = spec(f"infllm:local={told['n_local']},sinks={told['n_init']},block={told['block']},distance={distance}")
    delta = golden_windows[f"selection/infllm.delta_{distance}"]
    np.testing.assert_array_equal(made.effective_distance(told["T"])[mask], delta[mask])


def test_distances_of_the_focused_transformer_equal_the_golden_ones(golden_windows) -> None:
    made = spec(f"knn:local={golden_windows.cases['selection']['fot']['window']}")
    mask = golden_windows["selection/fot.mask"].astype(bool)
    assert np.array_equal(made.visible(32), mask)
    np.testing.assert_array_equal(made.effective_distance(32)[mask], golden_windows["selection/fot.delta"][mask])


# At once, token by token, and chunks between tokens: of few sizes, each of which is compiled.
CUT = [[LENGTH], [1] * LENGTH, [14, 1, 14, 1, 1, 14, 1, 1, 14]]


def in_pieces(made: AttentionSpec, q, k, v, sizes: list[int]):
    """The attention of a layer whose cache grows by so many tokens at a time, and the statistics it leaves."""
    rows, length, groups, _ = k.shape
    q, k, v = map(np.asarray, (q, k, v))
    cache, outs, done = empty(made, rows, groups, length, max(sizes)), [], 0

    @jax.jit
    def step(cache, indices, q, k, v):
        at, reading = Coordinates(indices, indices), Reading(indices[:, 0])
        return cache.attend(q, k, v, made, at, reading, learned={}, features={}, implementation="auto")

    for size in sizes:
        cut = slice(done, done + size)
        indices = np.broadcast_to(np.arange(length, dtype=np.int32)[None, cut], (rows, size))
        out, cache = step(cache, indices, q[:, cut], k[:, cut], v[:, cut])
        outs.append(out)
        done += size
    return np.concatenate(outs, axis=1), cache.statistics


def empty(made: AttentionSpec, rows: int, groups: int, longest: int, chunk: int):
    options = {"longest": longest, "chunk": chunk, "dtype": jnp.float32, "placed": False, "feature_sizes": {}}
    return empty_cache(made, rows=rows, kv_heads=groups, **options)


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("sizes", CUT, ids=len)
def test_a_cache_chooses_what_the_whole_text_does(name: str, sizes: list[int]) -> None:
    made, (q, k, v) = spec(SELECTIONS[name]), inputs(LENGTH, 2)
    found, _ = in_pieces(made, q, k, v, sizes)
    np.testing.assert_allclose(found, attend(made, q, k, v), atol=1e-5)


def test_quest_reads_a_prompt_without_a_selection_and_decodes_with_one() -> None:
    made, (q, k, v) = spec("quest:page=4,budget=12"), inputs(LENGTH, 2)
    found, _ = in_pieces(made, q, k, v, [50, *[1] * 11])
    np.testing.assert_allclose(found[:, :50], attend(rope(), q, k, v)[:, :50], atol=1e-5)
    selecting = attend(spec("quest:page=4,budget=12,prefill=selected"), q, k, v)
    np.testing.assert_allclose(found[:, 50:], selecting[:, 50:], atol=1e-5)
    with pytest.raises(UserError, match="prefill=selected"):
        attend(made, q, k, v)


def test_quest_reads_only_the_pages_it_chose() -> None:
    """Keys and values elsewhere may be anything."""
    made = spec("quest:page=4,budget=12")
    q, k, v = map(np.asarray, inputs(LENGTH))

    @jax.jit
    def decoded(v):
        operands = make_operands(q[:, -1:], k, v, rope(selection="quest:page=4,budget=12", position="nope"))
        at = operands.queries_at._replace(indices=jnp.full((1, 1), LENGTH - 1))
        operands, keys = operands._replace(queries_at=at, query_waves=(), key_waves=()), operands.keys[0]
        paged = jnp.pad(keys, [(0, 0), (0, 0), (0, -LENGTH % 4), (0, 0)], mode="edge").reshape(2, 4, -1, 4, 16)
        statistics = {"low": paged.min(3), "high": paged.max(3)}
        out, _, _ = made.selection.attend(operands, made, statistics, "auto", cached=True)
        queries = jnp.moveaxis(rotated(operands, made).queries[0], 1, 3)
        return out, made.selection.bounds(queries, statistics["low"], statistics["high"])

    out, bounds = decoded(v)
    for row in range(2):
        for head in range(4):
            worst, spoiled = int(np.argmin(bounds[row, head, 0, 0])), v.copy()
            spoiled[row, worst * 4 : worst * 4 + 4, head] = np.nan
            assert np.array_equal(decoded(spoiled)[0][row, 0, head], out[row, 0, head])


def test_cross_attention_to_the_best_keys_of_a_source() -> None:
    """Unlimiformer: every head of every query takes the best of all keys."""
    made = rope(architecture="cross_attention", position="nope", selection="knn:top=6")
    q, k, v = map(np.asarray, (inputs(13)[0], *inputs(40, seed=1)[1:]))
    logits, _ = of_pairs(made, q, k, v)
    out = attend(made, q, k, v)[0]
    for head in range(4):
        for t in range(13):
            kept = sorted(best(dict(enumerate(logits[head, t])), 6))
            expected = softmax(logits[head, t, kept]) @ v[0, kept, head]
            np.testing.assert_allclose(out[t, head], expected, atol=1e-5)
    full = rope(architecture="cross_attention", position="nope")
    everything = rope(architecture="cross_attention", position="nope", selection="knn:top=40")
    np.testing.assert_allclose(attend(everything, q, k, v), attend(full, q, k, v), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "knn:top=0"}, "top=0"),
        ({"selection": "knn:local=0"}, "local=0"),
        ({"selection": "knn", "architecture": "prefix_decoder"}, "not defined in a prefix decoder"),
        ({"selection": "infllm", "architecture": "encoder"}, "not defined in an encoder"),
        ({"selection": "quest", "architecture": "cross_attention", "position": "nope"}, "cross-attention"),
        ({"selection": "knn:local=4", "architecture": "cross_attention", "position": "nope"}, "local=4"),
        ({"selection": "infllm:representatives=9,block=8"}, "representatives=9"),
        ({"selection": "infllm", "window": "sliding"}, "local window of its own"),
        ({"selection": "quest", "position": "rerope"}, "without an index map"),
        ({"selection": "quest", "position": "alibi"}, "additive bias"),
        ({"selection": "knn", "position": "xpos"}, "for each query anew"),
        ({"selection": "knn", "position": "dual_chunk"}, "counts in contexts"),
        ({"selection": "faiss"}, "unknown selection"),
    ],
)
def test_impossible_selections_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rope(**options)


def test_blocks_are_refused_in_packed_rows() -> None:
    q, k, v = inputs(20)
    with pytest.raises(UserError, match="one text a row"):
        untraced_attend(q, k, v, spec(SELECTIONS["infllm"]), segment_ids=jnp.zeros((1, 20), jnp.int32))


@pytest.mark.parametrize("page", [10, 16, 24])
def test_padding_has_no_part_in_the_bounds_of_a_page(page: int) -> None:
    """Of prompts that are padded, whether or not pages divide the cache's capacity."""
    made, (q, k, v) = spec(f"quest:page={page},budget={3 * page}", position="nope"), inputs(40, 2)

    @jax.jit
    def left(q, k, v):
        indices = jnp.arange(q.shape[1])[None].repeat(2, 0)
        at = Coordinates(jnp.where(indices < 25, indices, -1), indices)
        reading = Reading(jnp.zeros(2, jnp.int32))
        options = {"learned": {}, "features": {}, "implementation": "dense"}
        return empty(made, 2, 2, 40, 32).attend(q, k, v, made, at, reading, **options)[1].statistics

    plain, padded = (left(*(np.asarray(x)[:, :size] for x in (q, k, v))) for size in (25, 32))
    for name in ("low", "high"):
        assert np.array_equal(plain[name], padded[name])


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_take_float64(name: str) -> None:
    with jax.enable_x64():
        made = spec(SELECTIONS[name])
        exact = [jnp.asarray(x, jnp.float64) for x in inputs(LENGTH, 2)]
        found = attention(*exact, made, "auto")
    np.testing.assert_allclose(found, attend(made, *inputs(LENGTH, 2)), atol=1e-5)
