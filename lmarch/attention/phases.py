"""Which angles of a rotation training has met."""

import math

import numpy as np

from lmarch.attention.spec import AttentionSpec
from lmarch.positions.frequencies import geometric


def phase_coverage(spec: AttentionSpec, length: int, rope_base: float) -> tuple[np.ndarray, np.ndarray]:
    """Which channel pairs meet only angles that plain RoPE met in training, bool [I]; and their wavelengths, inf if still.

    A pair has seen every angle if it finished a turn within the trained length; else the largest it met is
    (L - 1) theta_i. Less than one step more counts as seen: interpolation by L'/L reaches L - L/L'.
    """
    rotation = spec.position.rotation
    assert rotation is not None
    frequencies = np.asarray(rotation.at(length), np.float64)
    trained = spec.trained_length * geometric(2 * frequencies.size, rope_base)
    met = spec.largest_distance(length) / rotation.index_scale * frequencies
    with np.errstate(divide="ignore"):
        return (trained >= 2 * math.pi) | (met < trained), 2 * math.pi / frequencies
