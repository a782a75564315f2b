"""Frequencies, effective distances and visibility against golden numbers and closed forms."""

import numpy as np
import pytest

import lmarch
from lmarch.attention.spec import AttentionSpec
from lmarch.branches import PositionMap, Region, Tile
from lmarch.positions import PositionContext, build_position


def frequencies(method: str, head_dim: int = 64, base: float = 10_000.0) -> np.ndarray:
    return build_position(method, PositionContext(head_dim, base, 128, 1024)).frequencies()


def spec(position: str, **kwargs) -> AttentionSpec:
    return lmarch.attention_spec(position=position, head_dim=16, num_heads=2, trained_length=64, **kwargs)


@pytest.mark.parametrize("head_dim", [8, 16, 64])
def test_frequencies_equal_the_golden_ones(head_dim: int, golden) -> None:
    cases = golden.cases["freqs"]
    for case, given in cases["rope"].items():
        expected = golden[f"freqs/rope.{case}.D{head_dim}.inv_freq"]
        np.testing.assert_allclose(frequencies("rope", head_dim, given["base"]), expected, rtol=1e-12)
    for name, ours in (("pi", "linear"), ("ntk_aware", "ntk")):
        for case, given in cases[name].items():
            expected = golden[f"freqs/{name}.{case}.D{head_dim}.inv_freq"]
            np.testing.assert_allclose(frequencies(f"{ours}:factor={given['scale']}", head_dim), expected, rtol=1e-12)


def test_linear_divides_every_frequency() -> None:
    np.testing.assert_allclose(frequencies("linear:factor=3"), frequencies("rope") / 3, rtol=1e-15)


@pytest.mark.parametrize("factor", [1.5, 2, 8, 32])
def test_ntk_keeps_the_first_frequency_and_interpolates_the_last(factor: float) -> None:
    ours, rope = frequencies(f"ntk:factor={factor}"), frequencies("rope")
    assert ours[0] == rope[0]
    np.testing.assert_allclose(ours[-1], rope[-1] / factor, rtol=1e-12)
    assert (np.diff(ours) < 0).all()


@pytest.mark.parametrize("method", ["linear", "ntk"])
def test_factor_one_is_rope_and_the_default_is_target_over_trained(method: str) -> None:
    np.testing.assert_allclose(frequencies(f"{method}:factor=1"), frequencies("rope"), rtol=1e-15)
    assert np.array_equal(frequencies(method), frequencies(f"{method}:factor=8"))


@pytest.mark.parametrize("case", ["rope.0", "pi.0", "pi.1"])
def test_effective_distances_and_masks_equal_the_golden_ones(case: str, golden) -> None:
    given = golden.cases["relmaps"][case]
    made = spec("rope" if case == "rope.0" else f"linear:factor={given['scale']}")
    mask, delta = golden[f"relmaps/{case}.T16.mask"].astype(bool), golden[f"relmaps/{case}.T16.delta"]
    assert np.array_equal(made.visible(16), mask)
    np.testing.assert_allclose(made.effective_distance(16)[mask], delta[mask], atol=1e-12)
    assert np.isnan(made.effective_distance(16)[~mask]).all()


def test_specs_spell_out_derived_values_and_are_hashable() -> None:
    made = spec("ntk", target_length=256)
    assert made.position.method == "ntk:factor=4"
    assert hash(made) == hash(spec("ntk:factor=4", target_length=256))


def test_out_of_design_names_the_length() -> None:
    assert spec("linear:factor=2").position.out_of_design(128) is None
    assert "stretched for 128 tokens and is used at 129" in spec("linear:factor=2").position.out_of_design(129)
    assert spec("rope").position.out_of_design(10**6) is None


@pytest.mark.parametrize(
    "region",
    [
        Region(),
        Region(distance=(0, None)),
        Region(distance=(-3, 5)),
        Region(distance=(4, None), key=(None, 2)),
        Region(key=(3, 8)),
        Region(block_size=4, block_distance=(1, 1)),
        Region(block_size=3, block_distance=(2, None), distance=(None, 9)),
    ],
)
def test_a_tile_that_may_not_meet_a_region_has_no_pair_in_it(region: Region) -> None:
    index = np.arange(24)
    inside = region.contains(index[:, None], index[None, :])
    for t0, t1, s0, s1 in np.sort(np.random.default_rng(0).integers(0, 24, (300, 2, 2)), axis=-1).reshape(-1, 4):
        pairs, tile = inside[t0 : t1 + 1, s0 : s1 + 1], Tile(t0, t1, s0, s1)
        assert region.may_meet(tile) or not pairs.any()
        if region.distance == (None, None) or region == Region(distance=region.distance):
            assert region.may_meet(tile) == pairs.any()  # one bound alone is decided exactly


def test_position_maps_express_the_catalogue() -> None:
    t = np.arange(40)
    assert np.array_equal(PositionMap()(t), t)
    assert np.array_equal(PositionMap(scale=0, offset=7)(t), np.full(40, 7))
    np.testing.assert_allclose(PositionMap(scale=1 / 4, offset=8 - 8 / 4)(t), 8 + (t - 8) / 4)
    assert np.array_equal(PositionMap(group=3, offset=8 - 8 // 3)(t), t // 3 + 8 - 8 // 3)
    assert np.array_equal(PositionMap(modulus=6, offset=6, ceiling=9)(t), np.minimum(t % 6 + 6, 9))
