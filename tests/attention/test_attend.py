"""`lmarch.attend` and `lmarch.attention_spec`: against golden outputs, against perturbation, and with bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import TRAINED, inputs, learned_values, rope
from test_distances import GOLDEN as MAPS

import lmarch
from lmarch.attention.attend import choose
from lmarch.attention.fused import calls
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
PRECISIONS = [pytest.param("float32", 1e-5, marks=pytest.mark.slow), ("float64", 1e-10)]


def assert_golden(golden, spec, case: str, size: str, dtype: str, tolerance: float, implementation: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        q, k, v = (jnp.asarray(golden[f"inputs/{x}_{size}"].swapaxes(0, 1)[None], dtype) for x in "qkv")
        out = lmarch.attend(q, k, v, spec, implementation=implementation)
        expected = golden[f"{case}.{size}.out"].swapaxes(0, 1)[None]
        np.testing.assert_allclose(out, expected, atol=tolerance, err_msg=f"{case} {size}")


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_output_equals_the_golden_one(case: str, dtype: str, tolerance: float, implementation: str, golden) -> None:
    name, number = CASES[case]
    parameters = golden.cases["relmaps"][f"{name}.{number}"]
    for size, heads, head_dim in (("T16_D8", 2, 8), ("T16_D64", 2, 64), ("T128_D8", 1, 8)):
        spec = MAPS[name](**parameters, head_dim=head_dim, num_heads=heads)
        assert_golden(golden, spec, case, size, dtype, tolerance, implementation)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_bidirectional_output_equals_the_golden_one(name, dtype, tolerance, implementation, golden) -> None:
    for head_dim in (8, 64):
        spec = BOTH_WAYS[name](head_dim=head_dim, num_heads=2)
        assert_golden(
            golden, spec, f"logits_bidirectional/{name}", f"T16_D{head_dim}", dtype, tolerance, implementation
        )


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize(("case", "scale_base"), [(0, 512), (1, 32), (2, 1)])
def test_xpos_equals_the_golden_output(case: int, scale_base: int, implementation: str, golden) -> None:
    """The golden one rotates adjacent channels: the same model once channels are put in the order of half-split pairs."""
    for size, heads, head_dim in (("T16_D8", 2, 8), ("T16_D64", 2, 64), ("T128_D8", 1, 8)):
        if f"xpos/{case}.{size}.out" not in golden:
            continue
        order = np.concatenate([np.arange(0, head_dim, 2), np.arange(1, head_dim, 2)])
        q, k, v = (golden[f"inputs/{x}_{size}"].swapaxes(0, 1)[None] for x in "qkv")
        spec = rope(head_dim, heads, position=f"xpos:scale_base={scale_base}", trained_length=128, target_length=128)
        with jax.enable_x64(True):
            operands = [jnp.asarray(x) for x in (q[..., order], k[..., order], v)]
            out = lmarch.attend(*operands, spec, implementation=implementation)
        np.testing.assert_allclose(out, golden[f"xpos/{case}.{size}.out"].swapaxes(0, 1)[None], atol=1e-8)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_later_token_changes_no_earlier_output(implementation: str) -> None:
    before = lmarch.attend(*inputs(24), rope(), implementation=implementation)
    after = lmarch.attend(*[x.at[:, 15].add(1.0) for x in inputs(24)], rope(), implementation=implementation)
    assert np.array_equal(before[:, :15], after[:, :15])
    assert not np.allclose(before[:, 15:], after[:, 15:])


LENGTH_DEPENDENT = ["dynamic_ntk", "longrope", "rope:temperature=dual_chunk", "rope:temperature=log_n"]


WINDOWED = ["streaming:size=6,sinks=2", "lm_infinite:size=6,sinks=2"]


@pytest.mark.parametrize("implementation", [pytest.param("dense", marks=pytest.mark.slow), "tiled"])
@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize(
    ("position", "window"),
    [*((p, "full") for p in ["rope", "self_extend", "fire", *LENGTH_DEPENDENT]), *(("rope", w) for w in WINDOWED)],
)
def test_another_document_changes_nothing(position: str, window: str, restarted: bool, implementation: str) -> None:
    """Neither by its tokens nor by its length: lengths and sinks are a document's own."""
    if not restarted and position in ("self_extend", "fire", *LENGTH_DEPENDENT[:3]):
        return  # what depends on where positions begin is asked for by positions that go on
    spec = rope(position=position, window=window)
    learned = learned_values(spec)

    def second(first: int) -> jax.Array:
        """Outputs of 20 tokens that come after a document of `first` tokens."""
        q, k, v = inputs(first + 20, seed=first)
        tail = inputs(20, seed=99)
        q, k, v = (x.at[:, first:].set(y) for x, y in zip((q, k, v), tail, strict=True))
        segments = jnp.asarray([[0] * first + [1] * 20], jnp.int32)
        positions = jnp.asarray([[*range(first), *range(20)] if restarted else range(first + 20)], jnp.int32)
        options = {"segment_ids": segments, "positions": positions, "learned": learned}
        return lmarch.attend(q, k, v, spec, implementation=implementation, **options)[:, first:]

    alone = lmarch.attend(*inputs(20, seed=99), spec, implementation=implementation, learned=learned)
    for first in (4, 12, 50):
        np.testing.assert_allclose(second(first), alone, atol=2e-5)


def test_positions_begin_with_each_document_unless_given() -> None:
    spec = rope(position="fire")
    segments = jnp.asarray([[5] * 7 + [3] * 13], jnp.int32)
    options = {"learned": learned_values(spec), "segment_ids": segments}
    given = lmarch.attend(*inputs(20), spec, positions=jnp.asarray([[*range(7), *range(13)]], jnp.int32), **options)
    np.testing.assert_allclose(lmarch.attend(*inputs(20), spec, **options), given, atol=1e-6)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_document_is_a_run_of_equal_ids(implementation: str) -> None:
    """The same id further on is another document."""
    runs = [jnp.asarray([[a] * 10 + [1] * 10 + [b] * 20], jnp.int32) for a, b in ((0, 0), (0, 2))]
    again, other = (lmarch.attend(*inputs(40), rope(), implementation=implementation, segment_ids=ids) for ids in runs)
    assert np.array_equal(again, other)


@pytest.mark.parametrize("temperature", [pytest.param("log_n:form=trained,length=8", marks=pytest.mark.slow), "ssmax"])
@pytest.mark.parametrize("architecture", ["causal_decoder", "prefix_decoder", "encoder"])
def test_temperatures_count_the_keys_that_the_architecture_shows(architecture: str, temperature: str) -> None:
    """n against a count over the mask, in a packed row: t + 1, at least the prefix, the document's length."""
    segments = np.asarray([[0] * 9 + [1] * 15])
    prefix = np.asarray([[12] * 9 + [4] * 15])  # longer than the first document: all of it
    t, s = np.indices((24, 24))
    rank = np.concatenate([np.arange(9), np.arange(15)])
    seen = {"causal_decoder": s <= t, "prefix_decoder": (s <= t) | (rank[s] < prefix[0][t]), "encoder": s >= 0}
    n = (seen[architecture] & (segments[0][t] == segments[0][s])).sum(1)
    name, _, settings = temperature.partition(":")
    inner = dict(name=name, **({"form": "trained", "length": 8} if settings else {}))
    spec = rope(architecture=architecture, position={"name": "rope", "temperature": inner})
    learned = learned_values(spec)
    factor = np.log(n)[:, None] * (np.asarray(learned["ssmax_scale"])[None] if name == "ssmax" else 1 / np.log(8))
    q, k, v = inputs(24, rows=1)
    options = {"segment_ids": jnp.asarray(segments, jnp.int32), "implementation": "dense"}
    if architecture == "prefix_decoder":
        options["prefix_length"] = jnp.asarray(prefix, jnp.int32)
    expected = lmarch.attend(
        q * jnp.asarray(factor, jnp.float32)[None, :, :, None], k, v, rope(architecture=architecture), **options
    )
    np.testing.assert_allclose(lmarch.attend(q, k, v, spec, learned=learned, **options), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["dynamic_ntk", "longrope"])
def test_a_stepwise_row_is_the_last_row_of_its_text_so_far(method: str) -> None:
    """Rotated, with all its keys, for as many tokens as there are up to it: just beyond the trained length as well."""
    stepwise, full = rope(position=f"{method}:form=stepwise"), rope(position=f"{method}:form=full")
    tensors = inputs(TRAINED + 8)
    rows = lmarch.attend(*tensors, stepwise)
    so_far = lmarch.attend(*(x[:, : TRAINED + 1] for x in tensors), full)
    np.testing.assert_allclose(rows[:, TRAINED], so_far[:, -1], atol=1e-5)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_a_prefix_is_seen_by_all_and_sees_nothing_after_it(implementation: str) -> None:
    spec = rope(architecture="prefix_decoder")
    attend = functools.partial(
        lmarch.attend, spec=spec, implementation=implementation, prefix_length=jnp.asarray([10, 0])
    )
    before = attend(*inputs(24))
    inside = attend(*[x.at[:, 6].add(1.0) for x in inputs(24)])
    assert not np.any(np.all(np.isclose(before[0], inside[0]), axis=(-1, -2)))  # row 0: all tokens see token 6
    assert np.array_equal(before[1, :6], inside[1, :6])  # row 1 has no prefix
    after = attend(*[x.at[:, 10].add(1.0) for x in inputs(24)])
    assert np.array_equal(before[:, :10], after[:, :10])


def test_a_prefix_of_nothing_is_causal_and_of_everything_bidirectional() -> None:
    prefix = rope(architecture="prefix_decoder", position="rerope:window=5")
    for length, other in ((0, "causal_decoder"), (24, "encoder")):
        ours = lmarch.attend(*inputs(24), prefix, prefix_length=length)
        theirs = lmarch.attend(*inputs(24), rope(architecture=other, position="rerope:window=5"))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("implementation", ["dense", "tiled", "fused"])
def test_a_sink_takes_its_share_of_attention(implementation: str) -> None:
    """As a key with the sink's logit and a value of zero would."""
    spec, (q, k, v) = rope(sink=True), inputs(20)
    plain = rope()
    sink = jnp.asarray([-1.0, 0.0, 2.0, 50.0])
    if implementation == "fused":
        with pytest.raises(UserError, match="without bias, prefix, sink or soft-cap"):
            lmarch.attend(q, k, v, spec, implementation="fused", learned={"sink_logit": sink})
        return
    attend = functools.partial(lmarch.attend, implementation=implementation)
    out = attend(q, k, v, spec, learned={"sink_logit": sink})
    whole = np.asarray(attend(q, k, v, plain))
    ratio = np.asarray(out / whole)
    assert np.allclose(ratio[..., 3, :], 0, atol=1e-9)  # a huge sink leaves nothing
    first = np.asarray(jnp.einsum("BHK,BHK->BH", q[:, 0], k[:, 0])) / 4  # token 0 sees itself only: one logit
    np.testing.assert_allclose(ratio[:, 0].mean(-1), 1 / (1 + np.exp(np.asarray(sink)[None] - first)), rtol=1e-4)


FUSED = [
    "rope",
    "yarn",
    "rerope:window=7",
    "leaky_rerope:window=5,k=3",
    "self_extend:window=6,group=3",
    "rope:temperature=log_n",
]


@pytest.mark.parametrize("length", [pytest.param(5, marks=pytest.mark.slow), 33])
@pytest.mark.parametrize("position", FUSED)
def test_fused_calls_equal_the_oracle_in_values_and_gradients(position: str, length: int) -> None:
    """With XLA's implementation of `dot_product_attention`; the merge and its gradient are the same on a GPU."""
    spec, tensors = rope(position=position), inputs(length, kv_heads=2)

    @functools.partial(jax.jit, static_argnums=1)
    def value_and_gradients(tensors, implementation):
        def objective(tensors):
            out = lmarch.attend(*tensors, spec, implementation=implementation)
            return jnp.sin(out).mean(), out

        return jax.grad(objective, has_aux=True)(tensors)

    for ours, oracle in zip(
        *map(jax.tree.leaves, (value_and_gradients(tensors, i) for i in ("fused", "dense"))), strict=True
    ):
        np.testing.assert_allclose(ours, oracle, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("window", ["sliding:size=6", "full"])
@pytest.mark.parametrize("architecture", ["causal_decoder", "encoder"])
def test_fused_calls_serve_windows_and_encoders(window: str, architecture: str) -> None:
    if (window, architecture) == ("sliding:size=6", "encoder"):
        assert calls(rope(window=window, architecture=architecture), 33) is None
        return
    spec = rope(window=window, architecture=architecture)
    ours, oracle = (lmarch.attend(*inputs(33), spec, implementation=i) for i in ("fused", "dense"))
    np.testing.assert_allclose(ours, oracle, atol=2e-6)


def test_auto_says_what_it_picks() -> None:
    pick = functools.partial(choose, packed=True, dtype=jnp.float32)
    assert pick("auto", rope(), 128) == "dense"
    assert pick("auto", rope(), 4096) == "tiled"
    assert pick("tiled", rope(), 8) == "tiled"


def test_auto_picks_cudnn_where_it_serves_the_spec_in_one_call(monkeypatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    pick = functools.partial(choose, "auto", length=4096)
    assert pick(rope(), packed=False, dtype=jnp.bfloat16) == "fused"
    assert pick(rope(window="sliding:size=8"), packed=False, dtype="bfloat16") == "fused"
    assert pick(rope(), packed=False, dtype=jnp.float32) == "tiled"
    assert pick(rope(), packed=True, dtype=jnp.bfloat16) == "tiled"
    assert pick(rope(head_dim=20), packed=False, dtype=jnp.bfloat16) == "tiled"
    assert pick(rope(position="rerope"), packed=False, dtype=jnp.bfloat16) == "tiled"
    assert pick(rope(position="alibi"), packed=False, dtype=jnp.bfloat16) == "tiled"


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
            lmarch.attend(*bad, rope())
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
            lmarch.attend(*tensors, **options)
