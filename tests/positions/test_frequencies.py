"""Frequency maps against golden numbers (published formulas, Hugging Face) and closed forms."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.errors import UserError
from lmarch.positions import PositionContext, build_position
from lmarch.positions.position import Position

SIZES = [8, 16, 64]


def position(variant: Any, head_dim: int = 64, base: float = 1e4, trained: int = 128, target: int = 1024) -> Position:
    return build_position(variant, PositionContext(head_dim, base, trained, target))


def frequencies(variant: Any, *args: Any, length: int | None = None, **kwargs: Any) -> np.ndarray:
    return position(variant, *args, **kwargs).frequencies(length)


def given(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": name, **parameters}


# golden name -> (variant, keyword arguments of `frequencies`) of a case's parameters
MAPS = {
    "rope": lambda c: ("rope", dict(base=c["base"])),
    "pi": lambda c: (given("linear", factor=c["scale"]), {}),
    "ntk_aware": lambda c: (given("ntk", factor=c["scale"]), {}),
    "ntk_su_old": lambda c: (given("ntk", factor=c["k"], exponent=1), {}),
    "ntk_su_fixed": lambda c: (given("ntk_fixed", factor=c["k"]), {}),
    "ntk_su_mixed": lambda c: (given("ntk_mixed", factor=c["k"], exponent=c["b"]), {}),
    "dynamic_ntk": lambda c: (
        given("dynamic_ntk", factor=c["factor"]),
        dict(trained=c["max_position"], target=c["max_position"], length=c["seq_len"]),
    ),
    "yarn": lambda c: (
        given("yarn", factor=c["scale"], **{k: c[k] for k in ("beta_fast", "beta_slow", "truncate")}),
        dict(trained=c["original_max"], target=c["original_max"]),
    ),
    "ntk_by_parts_paper": lambda c: (
        given("ntk_by_parts", factor=c["scale"], alpha=c["alpha"], beta=c["beta"]),
        dict(trained=c["original_max"], target=c["original_max"]),
    ),
    "ntk_by_parts_old_code": lambda c: (
        given("ntk_by_parts_released", factor=c["scale"]),
        dict(trained=c["original_max"], target=c["original_max"]),
    ),
    "llama3": lambda c: (
        given("llama3", **{k: c[k] for k in ("factor", "low_freq_factor", "high_freq_factor")}),
        dict(trained=c["original_max"], target=c["original_max"], base=c["base"]),
    ),
    "giraffe_truncated": lambda c: (
        given("truncated", cutoff=c["truncate"], frequencies=given("linear", factor=c["scale_first"])),
        {},
    ),
    "giraffe_power": lambda c: (given("power", exponent=c["power"]), {}),
    "resonance": lambda c: (
        given("resonance", frequencies="rope" if c["on_top_of"] == "rope" else given("yarn", factor=8)),
        dict(trained=512, target=512, base=c["base"]),
    ),
    "p_rope_proportional": lambda c: (given("p_rope", fraction=c["fraction"], factor=c["factor"]), {}),
    "partial_rotary": lambda c: (given("partial", fraction=c["fraction"]), {}),
    "longrope_short": lambda c: (_longrope(c), dict(trained=c["original_max"], target=c["max"], length=10)),
    "longrope_long": lambda c: (_longrope(c), dict(trained=c["original_max"], target=c["max"], length=65)),
}


def _longrope(case: dict[str, Any]) -> dict[str, Any]:
    return given("longrope", **{name: case[name] for name in ("short_factor", "long_factor") if name in case})


@pytest.mark.parametrize("head_dim", SIZES)
@pytest.mark.parametrize("name", MAPS)
def test_frequencies_equal_the_published_formula(name: str, head_dim: int, golden) -> None:
    for case, parameters in golden.cases["freqs"][name].items():
        if name.startswith("longrope"):  # the case lists the factors of the largest size
            parameters = {k: v[: head_dim // 2] if isinstance(v, list) else v for k, v in parameters.items()}
        variant, options = MAPS[name](parameters)
        expected = golden[f"freqs/{name}.{case}.D{head_dim}.inv_freq"]
        np.testing.assert_allclose(frequencies(variant, head_dim, **options), expected, rtol=1e-12)


def test_every_golden_map_is_tested(golden) -> None:
    assert set(golden.cases["freqs"]) == set(MAPS)


def of_hugging_face(case: dict[str, Any], head_dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variant and options of one of Hugging Face's `rope_parameters`."""
    rope, longest = dict(case["rope_parameters"]), case["max_position_embeddings"]
    kind = rope.pop("rope_type")
    trained = rope.pop("original_max_position_embeddings", longest)
    options = dict(
        base=rope.pop("rope_theta", 1e4), trained=trained, target=max(trained, longest), length=case["seq_len"]
    )
    names = {"default": "rope", "dynamic": "dynamic_ntk", "proportional": "p_rope"}
    if kind == "proportional":
        rope["fraction"] = rope.pop("partial_rotary_factor")
    rope = {k: v[: head_dim // 2] if isinstance(v, list) else v for k, v in rope.items()}
    return given(names.get(kind, kind), **rope), options


@pytest.mark.parametrize("head_dim", SIZES)
def test_frequencies_and_scales_equal_those_of_hugging_face(head_dim: int, golden) -> None:
    for name, case in golden.cases["rope_hf"].items():
        variant, options = of_hugging_face(case, head_dim)
        expected = golden[f"rope_hf/{name}.D{head_dim}.inv_freq"]
        np.testing.assert_allclose(frequencies(variant, head_dim, **options), expected, rtol=1e-6, err_msg=name)
        options.pop("length")
        scale = position(variant, head_dim, **options).rotation.scale
        np.testing.assert_allclose(
            scale, golden[f"rope_hf/{name}.D{head_dim}.attention_scaling"], rtol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("factor", [1.5, 2, 8, 32])
def test_ntk_keeps_the_first_frequency_and_interpolates_the_last(factor: float) -> None:
    ours, rope = frequencies(f"ntk:factor={factor}"), frequencies("rope")
    assert ours[0] == rope[0]
    np.testing.assert_allclose(ours[-1], rope[-1] / factor, rtol=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_ntk_mixed_lies_between_linear_and_ntk_fixed(exponent: float) -> None:
    end = {0.0: "linear:factor=8", 1.0: "ntk_fixed:factor=8"}[exponent]
    np.testing.assert_allclose(frequencies(f"ntk_mixed:exponent={exponent},factor=8"), frequencies(end), rtol=1e-12)


def test_llama3_is_the_by_parts_of_the_yarn_paper() -> None:
    for base in (1e4, 5e5):
        parts = frequencies("ntk_by_parts:alpha=1,beta=4", base=base)
        np.testing.assert_allclose(frequencies("llama3", base=base), parts, rtol=1e-15)


def test_yarn_lies_between_linear_and_rope_and_sharpens_attention() -> None:
    yarn, rope = position("yarn:factor=8"), frequencies("rope")
    assert (yarn.frequencies() <= rope * (1 + 1e-12)).all()
    assert (yarn.frequencies() >= rope / 8 * (1 - 1e-12)).all()
    assert yarn.rotation.scale == pytest.approx(1.2079, abs=1e-4)  # methods for L = 512: logits 1.4591 times as large
    assert position("yarn:factor=8,attention_factor=1").rotation.scale == 1
    assert position("yarn:factor=1").rotation.scale == 1


def test_resonance_turns_in_whole_tokens() -> None:
    for under in ("rope", "ntk:factor=4", "yarn:factor=8"):
        waves = 2 * math.pi / frequencies({"name": "resonance", "frequencies": under})
        np.testing.assert_allclose(waves, np.round(waves), rtol=1e-12)


def test_dynamic_ntk_is_rope_up_to_the_trained_length_and_continuous_there() -> None:
    for factor in (1.0, 2.0, 4.0):
        dynamic = position(f"dynamic_ntk:factor={factor}")
        for length in (1, 100, 128):
            assert np.array_equal(dynamic.frequencies(length), frequencies("rope"))
        np.testing.assert_allclose(dynamic.frequencies(129), frequencies("rope"), rtol=0.05 * factor)
        assert (dynamic.frequencies(1024)[1:] < frequencies("rope")[1:]).all()


@pytest.mark.parametrize("name", ["dynamic_ntk:factor=2", "longrope"])
def test_frequencies_by_length_are_alike_in_numpy_and_jax(name: str) -> None:
    rotation = position(name).rotation
    lengths = np.asarray([[64, 128, 129, 1000]])
    for length, row in zip(lengths[0], rotation.at(jnp.asarray(lengths))[0], strict=True):
        np.testing.assert_allclose(row, rotation.at(int(length)), rtol=1e-6)


DECREASING = [
    "rope",
    "partial",
    "linear",
    "ntk",
    "ntk_fixed",
    "ntk_mixed",
    "ntk_by_parts",
    "yarn",
    "llama3",
    "power",
    "xpos",
]


@pytest.mark.parametrize("name", [*DECREASING, "p_rope", "truncated", "resonance"])
def test_slower_pairs_come_later(name: str) -> None:
    steps = np.diff(frequencies(name))
    assert (steps < 0).all() if name in DECREASING else (steps <= 0).all()


@pytest.mark.parametrize("name", ["linear", "ntk", "ntk_fixed", "ntk_mixed", "yarn", "llama3", "ntk_by_parts"])
def test_the_factor_is_target_over_trained_unless_given(name: str) -> None:
    assert np.array_equal(frequencies(name), frequencies(f"{name}:factor=8"))
    assert position(name).method == f"{name}:factor=8"
    assert not np.array_equal(frequencies(name), frequencies(f"{name}:factor=4"))


@pytest.mark.parametrize(
    "name", ["rope", "yarn:factor=4", "partial:frequencies=ntk", "rerope:frequencies=linear", "xpos"]
)
def test_a_layer_can_have_a_base_of_its_own(name: str) -> None:
    separator = "," if ":" in name else ":"
    own = position(f"{name}{separator}rope_base=1000000,temperature=log_n")
    assert own.rotation == position(name, base=1e6).rotation
    assert own.rotation != position(name).rotation
    assert position(own.method) == own
    assert "rope_base=1000000" in own.method
    assert position(f"{name}{separator}rope_base=1e4") == position(name)


REFUSED = {
    "must be 1 or more": "linear:factor=0.5",
    "must be a number": "ntk:factor=much",
    "unknown field 'fctor'": "ntk:fctor=2",
    "must be above 0 and at most 1": "partial:fraction=1.5",
    "leaves no pair": "partial:fraction=0.01",
    "must be in (0, beta_fast=32)": "yarn:beta_slow=40",
    "go together: give both": "yarn:mscale=5",
    "and mscale_all_dim must be above 0": "yarn:mscale=-9,mscale_all_dim=1",
    "both set the temperature": "yarn:attention_factor=1,mscale=1,mscale_all_dim=1",
    "must be in [0, high_freq_factor=4)": "llama3:low_freq_factor=5",
    "needs 32 numbers above 0": "longrope:long_factor=[1,2]",
    "must be 1 token or more": "truncated:cutoff=0",
    "must be a frequency map": "resonance:frequencies=rerope",
    "depend on the length of the text": "power:frequencies=dynamic_ntk",
    "rope rope_base=1.0 must be above 1 and finite": "rope:rope_base=1",
    "position method yarn.rope_base='large' must be a number": "yarn:rope_base=large",
    "alibi rope_base=500 has nothing to rotate: leave it out": "alibi:rope_base=500",
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_parameters_are_refused_in_one_line(message: str) -> None:
    with pytest.raises(UserError) as error:
        frequencies(REFUSED[message])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
