"""`untraced_attend` and `lmarch.attention_spec`: against golden outputs, against perturbation, and with bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import LENGTH, TRAINED, changed, inputs, learned_values, make_operands, rope, untraced_attend
from test_distances import GOLDEN as MAPS

from lmarch.attention.fused import calls
from lmarch.attention.implementations import choose
from lmarch.attention.tiled import tiled
from lmarch.attention.workload import Workload
from lmarch.errors import UserError

CASES = {
    f"logits_{name}/{case}": (name, case) for name, count in {
        "rope": 1, "pi": 2, "rerope": 3, "leaky_rerope": 4, "selfextend": 4, "dca": 4, "lm_infinite": 3, "streaming": 4,
        "sliding_window": 2,
    }.items() for case in range(count)
}  # fmt: skip
BOTH_WAYS = {
    "rerope": lambda **k: rope(position="rerope:window=4", architecture="encoder", **k),
    "leaky": lambda **k: rope(position="leaky_rerope:window=4,k=4", architecture="encoder", **k),
}
SIZES = {"T16_D64": (2, 64), "T128_D8": (1, 8)}  # of queries, keys and values: heads and their width


@functools.partial(jax.jit, static_argnums=3)
def in_tiles(q, k, v, spec):
    """In tiles of 8, so that there are several of the shortest text."""
    return tiled(make_operands(q, k, v, spec), spec, tile=8)[0].reshape(q.shape)


def assert_golden(golden, spec, expected: str, size: str, attend, order=slice(None), tolerance=1e-10) -> None:
    """In float64; the golden channels are in `order`."""
    with jax.enable_x64(True):
        q, k, v = (np.asarray(golden[f"inputs/{x}_{size}"].swapaxes(0, 1)[None], np.float64) for x in "qkv")
        out = attend(*(jnp.asarray(x) for x in (q[..., order], k[..., order], v)), spec)
    np.testing.assert_allclose(out, golden[f"{expected}.{size}.out"].swapaxes(0, 1)[None], atol=tolerance, err_msg=size)


@functools.partial(jax.jit, static_argnums=3, static_argnames="implementation")
def compiled(q, k, v, spec, **options):
    return untraced_attend(q, k, v, spec, **options)


def attended(q, k, v, spec, implementation: str = "dense", **options) -> np.ndarray:
    """As one program where it is a loop over tiles; the definition's operations are compiled once for all specs."""
    attend = untraced_attend if implementation == "dense" else compiled
    return np.asarray(attend(q, k, v, spec, implementation=implementation, **options))


in_one_product = functools.partial(untraced_attend, implementation="dense")


@pytest.mark.parametrize("case", CASES)
def test_output_equals_the_golden_one(case: str, golden) -> None:
    name, number = CASES[case]
    parameters = golden.cases["relmaps"][f"{name}.{number}"]
    for size, (heads, head_dim) in SIZES.items():
        spec = MAPS[name](**parameters, head_dim=head_dim, num_heads=heads)
        assert_golden(golden, spec, case, size, in_one_product)
        if number == 0 and size == "T128_D8":
            assert_golden(golden, spec, case, size, in_tiles)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_bidirectional_output_equals_the_golden_one(name: str, golden) -> None:
    spec = BOTH_WAYS[name](head_dim=64, num_heads=2)
    for attend in (in_one_product, in_tiles):
        assert_golden(golden, spec, f"logits_bidirectional/{name}", "T16_D64", attend)


@pytest.mark.parametrize(("case", "scale_base"), [(0, 512), (1, 32), (2, 1)])
def test_xpos_equals_the_golden_output(case: int, scale_base: int, golden) -> None:
    """The golden one rotates adjacent channels: the same model once channels are put in the order of half-split pairs."""
    for size, (heads, head_dim) in SIZES.items():
        if f"xpos/{case}.{size}.out" not in golden:
            continue
        order = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])
        spec = rope(head_dim, heads, position=f"xpos:scale_base={scale_base}", trained_length=128, target_length=128)
        assert_golden(golden, spec, f"xpos/{case}", size, in_one_product, order, 1e-8)
        if case == 1 and size == "T128_D8":
            assert_golden(golden, spec, f"xpos/{case}", size, in_tiles, order, 1e-8)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_later_token_changes_no_earlier_output(implementation: str) -> None:
    before, after = (
        attended(*tensors, rope(), implementation=implementation)
        for tensors in (inputs(LENGTH), [changed(x, 15) for x in inputs(LENGTH)])
    )
    assert np.array_equal(before[:, :15], after[:, :15])
    assert not np.allclose(before[:, 15:], after[:, 15:])


LENGTH_DEPENDENT = ["dynamic_ntk", "longrope", "rope:temperature=dual_chunk", "rope:temperature=log_n"]


# That tiles compute what the definition does, in packed rows too, is what test_tiled_equals_dense.py asks.
IN_TILES = (("self_extend", True), ("rope:temperature=log_n", False))
WINDOWED = ["streaming:size=6,sinks=2", "lm_infinite:size=6,sinks=2"]


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize(
    ("position", "window"),
    [*((p, "full") for p in ["rope", "self_extend", "fire", *LENGTH_DEPENDENT]), *(("rope", w) for w in WINDOWED)],
)
def test_another_document_changes_nothing(position: str, window: str, restarted: bool) -> None:
    """Neither by its tokens nor by its length: lengths and sinks are a document's own."""
    if not restarted and position in ("self_extend", "fire", *LENGTH_DEPENDENT[:3]):
        return  # what depends on where positions begin is asked for by positions that go on
    spec = rope(position=position, window=window)
    learned, tail = learned_values(spec), inputs(20, seed=99)

    def second(first: int, implementation: str) -> np.ndarray:
        """Outputs of 20 tokens that come after a document of `first` tokens, and before another one."""
        tensors = [np.array(x) for x in inputs(LENGTH, seed=first)]
        for x, of_tail in zip(tensors, tail, strict=True):
            x[:, first : first + 20] = of_tail
        sizes = first, 20, LENGTH - 20 - first
        segments = np.repeat([0, 1, 2], sizes)[None].astype(np.int32)
        positions = np.concatenate([np.arange(n) for n in sizes]) if restarted else np.arange(LENGTH)
        options = {"segment_ids": segments, "positions": positions[None].astype(np.int32), "learned": learned}
        out = attended(*tensors, spec, implementation, **{k: jax.tree.map(jnp.asarray, x) for k, x in options.items()})
        return out[:, first : first + 20]

    alone = attended(*tail, spec, learned=learned)
    for first in (4, 12, 40):
        np.testing.assert_allclose(second(first, "dense"), alone, atol=2e-5)
    if (position, restarted) in IN_TILES:
        np.testing.assert_allclose(second(12, "tiled"), alone, atol=2e-5)


def test_positions_begin_with_each_document_unless_given() -> None:
    spec = rope(position="fire")
    segments = jnp.asarray([[5] * 17 + [3] * 43], jnp.int32)
    options = {"learned": learned_values(spec), "segment_ids": segments}
    given = attended(*inputs(LENGTH), spec, positions=jnp.asarray([[*range(17), *range(43)]], jnp.int32), **options)
    np.testing.assert_allclose(attended(*inputs(LENGTH), spec, **options), given, atol=1e-6)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_document_is_a_run_of_equal_ids(implementation: str) -> None:
    """The same id further on is another document."""
    runs = [jnp.asarray([[a] * 10 + [1] * 10 + [b] * 40], jnp.int32) for a, b in ((0, 0), (0, 2))]
    again, other = (attended(*inputs(LENGTH), rope(), implementation=implementation, segment_ids=ids) for ids in runs)
    assert np.array_equal(again, other)


@pytest.mark.parametrize("temperature", ["log_n:form=trained,length=8", "ssmax"])
@pytest.mark.parametrize("architecture", ["causal_decoder", "prefix_decoder", "encoder"])
def test_temperatures_count_the_keys_that_the_architecture_shows(architecture: str, temperature: str) -> None:
    """n against a count over the mask, in a packed row: t + 1, at least the prefix, the document's length."""
    segments = np.asarray([[0] * 9 + [1] * (LENGTH - 9)])
    prefix = np.asarray([[12] * 9 + [4] * (LENGTH - 9)])  # longer than the first document: all of it
    t, s = np.indices((LENGTH, LENGTH))
    rank = np.concatenate([np.arange(9), np.arange(LENGTH - 9)])
    seen = {"causal_decoder": s <= t, "prefix_decoder": (s <= t) | (rank[s] < prefix[0][t]), "encoder": s >= 0}
    n = (seen[architecture] & (segments[0][t] == segments[0][s])).sum(1)
    name, _, settings = temperature.partition(":")
    inner = dict(name=name, **({"form": "trained", "length": 8} if settings else {}))
    spec = rope(architecture=architecture, position={"name": "rope", "temperature": inner})
    learned = learned_values(spec)
    factor = np.log(n)[:, None] * (np.asarray(learned["ssmax_scale"])[None] if name == "ssmax" else 1 / np.log(8))
    q, k, v = inputs(LENGTH)
    options = {"segment_ids": jnp.asarray(segments, jnp.int32)}
    if architecture == "prefix_decoder":
        options["prefix_length"] = jnp.asarray(prefix, jnp.int32)
    scaled = jnp.asarray(np.asarray(q) * factor[None, :, :, None], jnp.float32)
    expected = attended(scaled, k, v, rope(architecture=architecture), **options)
    np.testing.assert_allclose(attended(q, k, v, spec, learned=learned, **options), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["dynamic_ntk", "longrope"])
def test_a_stepwise_row_is_the_last_row_of_its_text_so_far(method: str) -> None:
    """Rotated, with all its keys, for as many tokens as there are up to it: just beyond the trained length as well."""
    stepwise, full = rope(position=f"{method}:form=stepwise"), rope(position=f"{method}:form=full")
    tensors = inputs(TRAINED + 8)
    rows = attended(*tensors, stepwise)
    so_far = attended(*(x[:, : TRAINED + 1] for x in tensors), full)
    np.testing.assert_allclose(rows[:, TRAINED], so_far[:, -1], atol=1e-5)


def test_a_stepwise_row_of_a_prefix_is_that_of_all_of_it() -> None:
    """A text so far is the whole prefix at least, which is longer here than training was."""
    stepwise, full = (
        rope(architecture="prefix_decoder", position=f"dynamic_ntk:form={f}") for f in ("stepwise", "full")
    )
    tensors, prefix = inputs(TRAINED + 8), TRAINED + 4
    rows = attended(*tensors, stepwise, prefix_length=prefix)
    alone = attended(*(x[:, :prefix] for x in tensors), full, prefix_length=prefix)
    np.testing.assert_allclose(rows[:, :prefix], alone, atol=1e-5)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_prefix_is_seen_by_all_and_sees_nothing_after_it(implementation: str) -> None:
    spec = rope(architecture="prefix_decoder")
    attend = functools.partial(attended, implementation=implementation, prefix_length=jnp.asarray([10, 0]))
    before = attend(*inputs(LENGTH), spec)
    inside = attend(*[changed(x, 6) for x in inputs(LENGTH)], spec)
    assert not np.any(np.all(np.isclose(before[0], inside[0]), axis=(-1, -2)))  # row 0: all tokens see token 6
    assert np.array_equal(before[1, :6], inside[1, :6])  # row 1 has no prefix
    after = attend(*[changed(x, 10) for x in inputs(LENGTH)], spec)
    assert np.array_equal(before[:, :10], after[:, :10])


def test_a_prefix_of_nothing_is_causal_and_of_everything_bidirectional() -> None:
    prefix = rope(architecture="prefix_decoder", position="rerope:window=5")
    for length, other in ((0, "causal_decoder"), (LENGTH, "encoder")):
        ours = attended(*inputs(LENGTH), prefix, prefix_length=length)
        theirs = attended(*inputs(LENGTH), rope(architecture=other, position="rerope:window=5"))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("implementation", ["dense", "tiled", "fused"])
def test_a_sink_takes_its_share_of_attention(implementation: str) -> None:
    """As a key with the sink's logit and a value of zero would."""
    spec, (q, k, v) = rope(sink=True), inputs(LENGTH)
    plain = rope()
    sink = jnp.asarray([-1.0, 0.0, 2.0, 50.0])
    if implementation == "fused":
        with pytest.raises(UserError, match="without bias, prefix, sink or soft-cap"):
            untraced_attend(q, k, v, spec, implementation="fused", learned={"sink_logit": sink})
        return
    attend = functools.partial(attended, implementation=implementation)
    ratio = attend(q, k, v, spec, learned={"sink_logit": sink}) / attend(q, k, v, plain)
    assert np.allclose(ratio[..., 3, :], 0, atol=1e-9)  # a huge sink leaves nothing
    first = (np.asarray(q)[:, 0] * np.asarray(k)[:, 0]).sum(-1) / 4  # token 0 sees itself only: one logit
    np.testing.assert_allclose(ratio[:, 0].mean(-1), 1 / (1 + np.exp(np.asarray(sink)[None] - first)), rtol=1e-4)


FUSED = [
    "rope",
    "yarn",
    "rerope:window=7",
    "leaky_rerope:window=5,k=3",
    "self_extend:window=6,group=3",
    "rope:temperature=log_n",
]


# A text within the near window needs one call, a longer one two.
@pytest.mark.parametrize(("position", "length"), [*((position, 33) for position in FUSED), ("rerope:window=7", 5)])
def test_fused_calls_equal_the_oracle_in_values_and_gradients(position: str, length: int) -> None:
    """With XLA's implementation of `dot_product_attention`; the merge and its gradient are the same on a GPU."""
    spec, tensors = rope(position=position), inputs(length, kv_heads=2)

    @jax.jit
    def values_and_gradients(tensors):
        def objective(tensors, implementation):
            out = untraced_attend(*tensors, spec, implementation=implementation)
            return jnp.sin(out).mean(), out

        return [jax.grad(objective, has_aux=True)(tensors, i) for i in ("fused", "dense")]

    for ours, oracle in zip(*map(jax.tree.leaves, values_and_gradients(tensors)), strict=True):
        np.testing.assert_allclose(ours, oracle, atol=2e-6)


@pytest.mark.parametrize(
    ("window", "architecture"), [("sliding:size=6", "causal_decoder"), ("full", "causal_decoder"), ("full", "encoder")]
)
def test_fused_calls_serve_windows_and_encoders(window: str, architecture: str) -> None:
    spec = rope(window=window, architecture=architecture)
    ours, oracle = (attended(*inputs(LENGTH), spec, i) for i in ("fused", "dense"))
    np.testing.assert_allclose(ours, oracle, atol=2e-6)


def test_a_fused_call_does_not_serve_a_window_that_looks_both_ways() -> None:
    assert calls(rope(window="sliding:size=6", architecture="encoder"), 33) is None


def picked(spec, dtype=jnp.bfloat16, length: int = 4096, implementation: str = "auto", **options) -> str:
    return choose(implementation, Workload(spec, queries=length, keys=length, dtype=dtype, **options))


def test_auto_says_what_it_picks() -> None:
    assert picked(rope(), length=128, packed=True) == "dense"
    assert picked(rope(), packed=True) == "tiled"
    assert picked(rope(), length=8, implementation="tiled", packed=True) == "tiled"
    assert picked(rope(position="dynamic_ntk:form=stepwise")) == "dense"
    assert choose("auto", Workload(rope(), queries=1, keys=100_000, dtype=jnp.float32, cached=True)) == "dense"


def test_auto_picks_cudnn_where_it_serves_the_spec_in_one_call() -> None:
    on_gpu = functools.partial(picked, platform="gpu")
    assert picked(rope(), platform="cpu") == "tiled"
    assert on_gpu(rope()) == "fused"
    assert on_gpu(rope(window="sliding:size=8")) == "fused"
    assert on_gpu(rope(), dtype=jnp.float32) == "tiled"
    assert on_gpu(rope(), packed=True) == "tiled"
    assert on_gpu(rope(head_dim=20)) == "tiled"
    assert on_gpu(rope(position="rerope")) == "tiled"
    assert on_gpu(rope(position="alibi")) == "tiled"


@pytest.mark.parametrize("implementation", ["tiled", "fused"])
def test_an_implementation_that_is_asked_for_is_used_or_refused(implementation: str) -> None:
    """Stepwise rotations were computed by the definition, whatever was asked for."""
    with pytest.raises(UserError, match=f"implementation='{implementation}' does not serve this layer"):
        untraced_attend(*inputs(24), rope(position="dynamic_ntk:form=stepwise"), implementation=implementation)


BAD_SPECS = {
    "did you mean 'rope'": dict(position="roep"),
    "unknown window 'ful'": dict(window="ful"),
    "unknown architecture 'decoder'": dict(architecture="decoder"),
    "target_length=32 is below trained_length=64": dict(target_length=32, trained_length=64),
    "make it even": dict(head_dim=7),
    "4 or more": dict(position="ntk", head_dim=2),
    "rope_base=1 must be above 1": dict(rope_base=1.0),
    "5 is not a variant": dict(position=5),
    "7 is not a variant": dict(window=7),
    "8 is not a variant": dict(position={"name": "rope", "temperature": 8}),
}


@pytest.mark.parametrize("message", BAD_SPECS)
def test_bad_specs_are_refused_with_the_reason(message: str) -> None:
    with pytest.raises(UserError) as error:
        rope(**{"head_dim": 16, **BAD_SPECS[message]})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_inputs_that_do_not_fit_are_refused() -> None:
    q, k, v = inputs(24)
    for bad in [(q[:, :, :2], k, v), (q, k[:, :, :3], v[:, :, :3]), (q, k, v[:, :20]), (q, k[:, :20], v[:, :20])]:
        with pytest.raises(UserError):
            untraced_attend(*bad, rope())
    refused = {
        "did you mean 'tiled'": dict(spec=rope(), implementation="tield"),
        "knows positions 0 .. T-1 and no selection": dict(
            spec=rope(), implementation="fused", positions=jnp.zeros((1, 24), jnp.int32)
        ),
        "serves unpacked rows": dict(spec=rope(position="dual_chunk"), implementation="fused"),
        "needs a prefix_length": dict(spec=rope(architecture="prefix_decoder")),
        "has no prefix": dict(spec=rope(), prefix_length=3),
        "give one number, one a row, or one a token": dict(
            spec=rope(architecture="prefix_decoder"), prefix_length=jnp.zeros(3, jnp.int32)
        ),
        "learns t5_bias: pass them as `learned`": dict(spec=rope(position="t5_bias")),
        "cannot go beyond 16 tokens, and the text has 24": dict(spec=rope(position="learned")),
        "needs more range than float16 has": dict(spec=rope(position="xpos"), half=True),
        "have shape": dict(spec=rope(), segment_ids=jnp.zeros((2, 9), jnp.int32)),
    }
    for message, options in refused.items():
        half = options.pop("half", False)
        tensors = [x.astype(jnp.float16) if half else x for x in (q, k, v)]
        with pytest.raises(UserError, match=message):
            untraced_attend(*tensors, **options)
