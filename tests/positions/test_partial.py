"""Stretching a partial rotary: every frequency map computes with the channels that turn, against formulas written twice."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.attention.rotation import make_wave, rotate
from lmarch.errors import UserError
from lmarch.positions import POSITIONS, PositionContext, build_position
from lmarch.positions.frequencies import FrequencyMap
from lmarch.positions.position import Position

HEAD, BASE, TRAINED, FACTOR = 64, 1e4, 128, 8.0
MAPS = [name for name in POSITIONS if issubclass(POSITIONS[name], FrequencyMap)]


def position(variant: Any, head_dim: int = HEAD) -> Position:
    return build_position(variant, PositionContext(head_dim, BASE, TRAINED, int(FACTOR * TRAINED)))


def partial(name: str, fraction: float, **parameters: Any) -> dict[str, Any]:
    return {"name": "partial", "fraction": fraction, "frequencies": {"name": name, **parameters}}


def plain(width: int, base: float = BASE) -> np.ndarray:
    return np.asarray([base ** (-channel / width) for channel in range(0, width, 2)])


def linear(width: int) -> np.ndarray:
    return plain(width) / FACTOR


def ntk(width: int) -> np.ndarray:
    return plain(width, BASE * FACTOR ** (width / (width - 2)))


def ntk_fixed(width: int) -> np.ndarray:
    return np.asarray([BASE ** (-2 * i / width) * FACTOR ** (-2 * (i + 1) / width) for i in range(width // 2)])


def ntk_mixed(width: int) -> np.ndarray:
    a = math.log(FACTOR) / (width / 2) ** 0.625
    return np.asarray([BASE ** (-2 * i / width) * math.exp(-a * (i + 1) ** 0.625) for i in range(width // 2)])


def by_turns(width: int, fewest: float, most: float) -> np.ndarray:
    frequencies = []
    for frequency in plain(width):
        turns = TRAINED / (2 * math.pi / frequency)
        kept = min(1.0, max(0.0, (turns - fewest) / (most - fewest)))
        frequencies.append((1 - kept) * frequency / FACTOR + kept * frequency)
    return np.asarray(frequencies)


def ramp(width: int, most: float, fewest: float) -> np.ndarray:
    def pair(turns: float) -> float:
        return width * math.log(TRAINED / (turns * 2 * math.pi)) / (2 * math.log(BASE))

    low, high = max(math.floor(pair(most)), 0), min(math.ceil(pair(fewest)), width - 1)
    high = high + 0.001 if low == high else high
    return np.asarray([min(1.0, max(0.0, (i - low) / (high - low))) for i in range(width // 2)])


def yarn(width: int) -> np.ndarray:
    interpolated = ramp(width, 32, 1)
    return plain(width) / FACTOR * interpolated + plain(width) * (1 - interpolated)


def released(width: int) -> np.ndarray:
    slow = linear(width) * ramp(width, 1.25, 0.75) + ntk(width) * (1 - ramp(width, 1.25, 0.75))
    return slow * ramp(width, 16, 2) + plain(width) * (1 - ramp(width, 16, 2))


FORMULAS: dict[str, Callable[[int], np.ndarray]] = {
    "rope": plain,
    "linear": linear,
    "ntk": ntk,
    "ntk_fixed": ntk_fixed,
    "ntk_mixed": ntk_mixed,
    "ntk_by_parts": lambda width: by_turns(width, 1, 32),
    "ntk_by_parts_released": released,
    "llama3": lambda width: by_turns(width, 1, 4),
    "yarn": yarn,
}


@pytest.mark.parametrize("fraction", [0.25, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_stretched_partial_rotary_has_the_formula_of_its_width(name: str, fraction: float) -> None:
    """0.4 of 64 channels are 25, which are rounded down to 24."""
    width = {0.25: 16, 0.4: 24, 0.5: 32, 1.0: 64}[fraction]
    ours = position(partial(name, fraction)).frequencies()
    np.testing.assert_allclose(ours, FORMULAS[name](width), rtol=1e-12)


@pytest.mark.parametrize("length", [100, 129, 1000])
def test_a_partial_rotary_grows_with_the_text(length: int) -> None:
    width, growth = 16, max(1.0, 2 * length / TRAINED - 1)
    ours = position(partial("dynamic_ntk", 0.25, factor=2)).frequencies(length)
    np.testing.assert_allclose(ours, plain(width, BASE * growth ** (width / (width - 2))), rtol=1e-12)


def test_factors_of_longrope_are_those_of_the_pairs_that_turn() -> None:
    long_factor = tuple(float(i) for i in range(1, 9))
    spec = position(partial("longrope", 0.25, long_factor=long_factor))
    np.testing.assert_allclose(spec.frequencies(TRAINED), plain(16), rtol=1e-12)
    np.testing.assert_allclose(spec.frequencies(TRAINED + 1), plain(16) / np.asarray(long_factor), rtol=1e-12)
    with pytest.raises(UserError, match="needs 8 numbers above 0"):
        position(partial("longrope", 0.25, long_factor=(1.0,) * 32))


@pytest.mark.parametrize("name", MAPS)
def test_a_partial_rotary_is_that_of_a_narrower_head(name: str) -> None:
    """Scale, decay, dependence on the length and limits too, for every registered frequency map."""
    ours, narrow = position(partial(name, 0.5)), position(name, HEAD // 2)
    if name == "partial":
        narrow = position("partial:fraction=0.25", HEAD // 2)
    assert ours.rotation == narrow.rotation
    assert (ours.design_length, ours.longest, ours.remarks) == (narrow.design_length, narrow.longest, narrow.remarks)


def test_the_channels_that_do_not_turn_are_not_scaled_either() -> None:
    x = np.random.default_rng(0).standard_normal((1, 5, 2, HEAD)).astype(np.float32)
    positions = jnp.asarray([[0, 1, 7, 100, 1000]])

    def turned(rotation: Any, x_BTHK: np.ndarray) -> np.ndarray:
        return np.asarray(rotate(jnp.asarray(x_BTHK), make_wave(positions, rotation.at(1000), rotation, x_BTHK.dtype)))

    whole = turned(position(partial("yarn", 0.5)).rotation, x)
    assert np.array_equal(whole[..., HEAD // 2 :], x[..., HEAD // 2 :])
    narrow = turned(position("yarn", HEAD // 2).rotation, x[..., : HEAD // 2])
    assert np.array_equal(whole[..., : HEAD // 2], narrow)


def test_names_spell_out_what_was_derived_and_hold_the_default_back() -> None:
    assert position("partial").method == "partial"
    assert position("partial:fraction=0.5,frequencies=yarn").method == (
        "partial:fraction=0.5,frequencies=yarn,frequencies.factor=8"
    )
    under = "frequencies=partial,frequencies.frequencies=linear"
    rerope = position(f"rerope:window=8,{under}")
    assert rerope.rotation == position(partial("linear", 0.25)).rotation
    assert rerope.method == f"rerope:{under},frequencies.frequencies.factor=8,window=8"
    assert position(rerope.method) == rerope


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("partial:frequencies=rerope", "partial frequencies=rerope must be a frequency map"),
        ("partial:fraction=0.01,frequencies=yarn", "partial fraction=0.01 leaves no pair"),
        ("partial:fraction=0.04,frequencies=ntk", "ntk needs 4 or more channels of a head to rotate, got 2"),
        ("partial:frequencies=yarn,frequencies.factor=0.5", "yarn factor=0.5 must be 1 or more"),
    ],
)
def test_what_cannot_be_stretched_is_refused_in_one_line(variant: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        position(variant)
