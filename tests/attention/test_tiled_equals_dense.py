"""Tiles compute what the definition says, in values and gradients, for any method, length, packing, prefix and window."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import METHODS, inputs, learned_values, make_operands, packing, rope

from lmarch.attention.coordinates import PADDING, pairs_of, text_coordinates, visible_pairs
from lmarch.attention.dense import dense
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.tiled import tiled
from lmarch.attention.tiles import make_plan

# One of every shape of branches and visibility.
SHAPES = {
    "rope": rope(),
    "rerope": rope(position="rerope:window=7"),
    "leaky_rerope": rope(position="leaky_rerope:window=20,k=4"),
    "dual_chunk": rope(position="dual_chunk:chunk=12,max_position=15"),
    "streaming": rope(window="streaming:size=8,sinks=2"),
    "lm_infinite, sinks where they are": rope(window="lm_infinite:size=9,sinks=2,capped=False"),
    "lm_infinite": rope(window="lm_infinite:size=9,sinks=2,ceiling=5"),
    "rerope, streaming": rope(position="rerope:window=5", window="streaming:size=8,sinks=2"),
    "fire, streaming": rope(position="fire:threshold=8", window="streaming:size=8,sinks=2"),
    "t5_bias, lm_infinite": rope(position="t5_bias:num_buckets=8,max_distance=20", window="lm_infinite:size=9,sinks=2"),
}

LENGTH = 67  # no multiple of the tile


def in_tiles(operands, spec):
    return tiled(operands, spec, tile=16)


@functools.partial(jax.jit, static_argnums=1)
def values_and_gradients(tensors, spec, positions=None, segments=None, prefix=None):
    """Of the definition and of tiles: outputs, and gradients of a sum over outputs and log-normalisers in what is learned."""

    def objective(tensors, attention):
        q, k, v, learned = tensors
        out, log_normaliser = attention(make_operands(q, k, v, spec, positions, segments, prefix, learned), spec)
        seen = log_normaliser > -1e29
        return jnp.sin(out).sum() + jnp.where(seen, jnp.cos(log_normaliser), 0.0).sum(), out

    return [jax.grad(objective, has_aux=True)(tensors, attention)[::-1] for attention in (dense, in_tiles)]


def assert_alike(spec: AttentionSpec, length: int, kv_heads: int = 2, **tokens) -> None:
    tensors = (*inputs(length, kv_heads), learned_values(spec))
    (out, gradients), (tiled_out, tiled_gradients) = values_and_gradients(tensors, spec, **tokens)
    np.testing.assert_allclose(tiled_out, out, atol=1e-5)
    for ours, oracle in zip(*map(jax.tree.leaves, (tiled_gradients, gradients)), strict=True):
        # A sum over thousands of float32 terms of both signs: rounding is relative to the largest.
        np.testing.assert_allclose(ours, oracle, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(oracle).max()))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


PACKINGS = ("masked and restarted", "one document", "masked", "restarted only")


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        *((name, PACKINGS[number % len(PACKINGS)]) for number, name in enumerate(SHAPES)),
        *(
            pytest.param(name, PACKINGS[(number + 2) % len(PACKINGS)], marks=pytest.mark.slow)
            for number, name in enumerate(SHAPES)
        ),
    ],
)
def test_values_and_gradients_agree(name: str, packed: str) -> None:
    """Every shape in one packing, and in another that has or lacks what the first has not."""
    made = packing(LENGTH)
    segments = made["segments"] if "masked" in packed else None
    positions = made["positions"] if "restarted" in packed else None
    assert_alike(SHAPES[name], LENGTH, positions=positions, segments=segments)


# Tiles know a method by its branches and its bias; what turned queries and keys they do not see. So biases are here, of which
# those with a table and a network have a gradient of their own, and rotations by the document's length and with a decay.
BIASED = [method for method in METHODS if rope(position=method).position.bias is not None]
FIRST = ("t5_bias:num_buckets=8,max_distance=20", "fire:threshold=8", "xpos:scale_base=32", "dynamic_ntk")
SEEN_BY_TILES = [*FIRST, *(pytest.param(m, marks=pytest.mark.slow) for m in BIASED if m not in FIRST)]


@pytest.mark.parametrize("method", SEEN_BY_TILES)
def test_biases_and_kinds_of_rotation_agree_in_packed_rows(method: str) -> None:
    made = packing(LENGTH)
    del made["prefix"]
    assert_alike(rope(position=method), LENGTH, **made)


@pytest.mark.parametrize(
    ("position", "tokens"),
    [
        ("t5_bias:num_buckets=8,max_distance=20", ("segments", "positions")),  # what is learned is every row's
        (
            {"name": "rope", "temperature": "ssmax"},
            ("positions",),
        ),  # and so are the counts of keys, and with them a factor
        ("rerope:window=7", ("segments",)),
    ],
    ids=str,
)
def test_rows_one_after_the_other_agree(position, tokens: tuple[str, ...], monkeypatch) -> None:
    """As they are computed on a CPU that is one device, which it is in no other test."""
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr("lmarch.attention.tiled.MANY_BRANCHES", 1)
    spec, made = rope(position=position), packing(LENGTH)
    tensors = (*inputs(LENGTH, 2), learned_values(spec))
    once_more = jax.jit(lambda tensors, tokens: values_and_gradients.__wrapped__(tensors, spec, **tokens))
    for ours, oracle in zip(
        *map(jax.tree.leaves, once_more(tensors, {name: made[name] for name in tokens})), strict=True
    ):
        np.testing.assert_allclose(ours, oracle, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(oracle).max()))


@pytest.mark.parametrize("temperature", [pytest.param("log_n", marks=pytest.mark.slow), "ssmax"])
def test_temperatures_agree(temperature: str) -> None:
    """They scale queries before tiles see them: by the document's length, and by what is learned."""
    made = packing(LENGTH)
    del made["prefix"]
    assert_alike(rope(position={"name": "rerope", "window": 9, "temperature": temperature}), LENGTH, **made)


LATER = [("prefix_decoder", "rope"), ("encoder", "rerope"), ("prefix_decoder", "kerple_log"), ("encoder", "alibi")]
LATER += [
    pytest.param("encoder" if number % 2 else "prefix_decoder", method, marks=pytest.mark.slow)
    for number, method in enumerate([*BIASED, "self_extend:group=2,window=4"])
]


@pytest.mark.parametrize(("architecture", "method"), LATER)
def test_branches_and_biases_agree_where_later_keys_are_seen(architecture: str, method: str) -> None:
    made = packing(LENGTH)
    if architecture == "encoder":
        del made["prefix"]
    assert_alike(rope(position=method, architecture=architecture), LENGTH, **made)


@pytest.mark.parametrize(
    "window", ["sliding:size=6,prefix=visible", pytest.param("streaming:size=6,sinks=2", marks=pytest.mark.slow)]
)
def test_windows_agree_in_prefix_decoders(window: str) -> None:
    spec = rope(position="rerope:window=4", architecture="prefix_decoder", window=window)
    assert_alike(spec, LENGTH, **packing(LENGTH))


@pytest.mark.parametrize(("kv_heads", "position"), [(1, "alibi"), (2, "alibi"), (2, "rope")])
def test_grouped_heads_equal_repeated_heads(kv_heads: int, position: str) -> None:
    """A bias per query head must find its head."""
    q, k, v = inputs(33, kv_heads)
    repeated = [jnp.asarray(np.repeat(x, 4 // kv_heads, axis=2)) for x in (k, v)]
    spec = rope(position=position)

    @jax.jit
    def outputs(q, *pairs):
        return [[f(make_operands(q, *kv, spec), spec)[0] for kv in pairs] for f in (dense, in_tiles)]

    for grouped, full in outputs(q, (k, v), repeated):
        np.testing.assert_allclose(grouped.reshape(full.shape), full, atol=1e-6)


def test_a_query_that_sees_nothing_gets_zeros_and_no_nan_gradient() -> None:
    spec = rope(window="streaming:size=4,sinks=1")
    blind = dataclasses.replace(spec.visibility, always=spec.visibility.always[1:])  # no token sees itself
    spec = dataclasses.replace(spec, visibility=blind)
    segments = np.minimum(np.arange(40), 20)[None].repeat(2, 0).astype(np.int32)
    for out, gradients in values_and_gradients((*inputs(40), {}), spec, segments=segments):
        assert np.all(np.asarray(out)[:, :20] == 0)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def tile_by_tile(pairs_BTS: np.ndarray) -> np.ndarray:
    """Which tiles of 16 by 16 hold any of these pairs, [B, N, M]."""
    padded = np.pad(pairs_BTS, [(0, 0), *[(0, -size % 16) for size in pairs_BTS.shape[1:]]])
    rows, queries, keys = padded.shape
    return padded.reshape(rows, queries // 16, 16, keys // 16, 16).any((2, 4))


PLANNED = {**SHAPES, "parallel": rope(window="parallel:size=12,task_length=7,first=longest")}
# Where documents restart, or three apart; parallel windows say themselves where tokens are.
SPREADS = [(name, spread) for name in PLANNED for spread in (1, 3) if (name, spread) != ("parallel", 3)]


@pytest.mark.parametrize("by_row", [True, False], ids=["by row", "of all rows"])
@pytest.mark.parametrize(("name", "spread"), SPREADS)
def test_a_plan_misses_no_pair_and_no_branch_of_it(name: str, spread: int, by_row: bool) -> None:
    """In packed rows, against the mask itself, wherever documents begin and whatever positions they are given."""
    spec, made = PLANNED[name], packing(LENGTH)

    @jax.jit
    def planned(segments, given):
        at = text_coordinates(LENGTH, given, segments, layout=spec.visibility.layout)
        pairs = pairs_of(at, at)
        visible = visible_pairs(spec, pairs, at, at)
        inside = [visible & branch.region.contains(pairs) for branch in spec.branches]
        return make_plan(spec, at, at, 16, by_row=by_row), inside

    plan, inside = planned(made["segments"], None if spread == 1 else spread * made["positions"])
    found_BNMb = np.stack([tile_by_tile(np.asarray(pairs_BTS)) for pairs_BTS in inside], axis=-1)
    branch = np.asarray(plan.branch_ZNM)
    is_visited = np.argsort(plan.order_ZNM, axis=-1) < np.asarray(plan.count_ZN)[..., None]
    assert not (found_BNMb & ~np.asarray(plan.present_ZNMb)).any()
    assert not (found_BNMb.any(-1) & ~is_visited).any()
    # Where the plan names one branch, there is no pair in another one.
    others = np.arange(len(spec.branches)) != branch[..., None]
    assert not (found_BNMb & others & (branch < len(spec.branches))[..., None]).any()


def test_a_plan_by_row_visits_what_each_row_needs() -> None:
    segments = jnp.asarray([[0] * 32 + [1] * 32, [0] * 64])
    at = text_coordinates(64, segment_ids=segments)
    plan = jax.jit(lambda: make_plan(rope(), at, at, 16, by_row=True))()
    assert plan.count_ZN.tolist() == [[1, 2, 1, 2], [1, 2, 3, 4]]


def test_a_tile_across_documents_has_one_branch_where_its_indices_are_near() -> None:
    """By positions that restart inside it, a pair of it might be 23 apart."""
    at = text_coordinates(64, segment_ids=jnp.asarray([[0] * 24 + [1] * 40]))
    spec = rope(position="rerope:window=16")
    plan = jax.jit(lambda: make_plan(spec, at, at, 16, by_row=False))()
    assert np.diagonal(plan.branch_ZNM[0]).tolist() == [0, 0, 0, 0]


def visited(spec: AttentionSpec, length: int, segments=None, prefix=None, filled: int | None = None) -> list[list[int]]:
    """The key tiles that every query tile of 16 visits; of a cache, only the first `filled` slots hold something."""

    @jax.jit
    def visits():
        prefixes = None if prefix is None else jnp.asarray([[prefix]])
        at = text_coordinates(length, segment_ids=segments, layout=spec.visibility.layout, prefix=prefixes)
        keys_at = at if filled is None else at._replace(indices=jnp.where(at.indices < filled, at.indices, PADDING))
        plan = make_plan(spec, at, keys_at, 16, by_row=False)
        return plan.order_ZNM[0], plan.count_ZN[0]

    return [np.asarray(order)[: int(count)].tolist() for order, count in zip(*visits(), strict=True)]


def test_tiles_without_a_visible_pair_are_not_visited() -> None:
    assert visited(rope(), 128) == [list(range(n + 1)) for n in range(8)]  # causal: half of the square
    # A window's two tiles, and the sinks' one.
    assert visited(rope(window="streaming:size=16,sinks=2"), 80) == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert visited(rope(window="sliding:size=16"), 64) == [[0], [0, 1], [1, 2], [2, 3]]
    # Parallel windows see themselves, and the task behind them everything.
    parallel = rope(window="parallel:size=32,task_length=16")
    assert visited(parallel, 80) == [[0], [0, 1], [2], [2, 3], [0, 1, 2, 3, 4]]
    # A last window of one token, which the task does not see, lies in its tile.
    hidden = rope(window="parallel:size=16,task_length=7,first=longest")
    assert visited(hidden, 40) == [[0], [1], [0, 1, 2]]
    assert visited(rope(architecture="encoder", window="parallel:size=32"), 64) == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_tiles_of_empty_slots_are_not_visited() -> None:
    assert visited(rope(), 64, filled=20) == [[0], [0, 1], [0, 1], [0, 1]]
    assert visited(rope(architecture="encoder"), 48, filled=16) == [[0], [0], [0]]


def test_tiles_of_other_documents_and_beyond_the_prefix_are_not_visited() -> None:
    segments = jnp.asarray([[0] * 32 + [1] * 32])
    assert visited(rope(), 64, segments=segments) == [[0], [0, 1], [2], [2, 3]]
    beside_one = jnp.concatenate([segments, jnp.zeros((1, 64), int)])  # a row of one document, which needs every tile
    assert visited(rope(), 64, segments=beside_one) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    prefix = rope(architecture="prefix_decoder")
    assert visited(prefix, 64, prefix=20) == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_bfloat16_inputs_keep_float32_logits() -> None:
    @jax.jit
    def outputs(tensors):
        exact, _ = dense(make_operands(*[x.astype(jnp.float32) for x in tensors], rope()), rope())
        return exact, [f(make_operands(*tensors, rope()), rope()) for f in (dense, in_tiles)]

    exact, both = outputs([np.asarray(x).astype(jnp.bfloat16) for x in inputs(LENGTH, 2)])
    for out, log_normaliser in both:
        assert out.dtype == jnp.bfloat16
        assert log_normaliser.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["rerope:window=512", "t5_bias"])
def test_memory_is_linear_in_length(position: str) -> None:
    """Temporary memory of a forward and of a gradient at 16,384 tokens is 4 times that at 4,096, not 16 times."""
    spec = rope(head_dim=32, position=position, trained_length=1024, target_length=1024)
    learned = learned_values(spec)

    def forward(q, k, v):
        return tiled(make_operands(q, k, v, spec, learned=learned), spec)[0]

    def gradient(q, k, v):
        return jax.grad(lambda *x: forward(*x).sum(), (0, 1, 2))(q, k, v)

    def temporary_bytes(function, length: int) -> int:
        q, k, v = (jax.ShapeDtypeStruct((1, length, 4, 32), jnp.float32) for _ in range(3))
        return jax.jit(function).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    for function in (forward, gradient):
        short, long = temporary_bytes(function, 4096), temporary_bytes(function, 16_384)
        print(f"{function.__name__}: {short / 2**20:.1f} MiB at 4,096 tokens, {long / 2**20:.1f} MiB at 16,384")
        assert long < 4.5 * short
        assert long < 16_384**2  # a single byte per pair would be more
