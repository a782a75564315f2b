"""A small decoder trained at 128 bytes, evaluated at 1× to 8× with four methods, and the record of its run."""

import math

import pytest
from synthetic_results import CURVES, LENGTHS, row


@pytest.fixture
def results():
    return [
        row(*method, length, value)
        for method, curve in CURVES.items()
        for length, value in zip(LENGTHS, curve, strict=True)
    ]


@pytest.fixture
def broken(results):
    """Few documents, one method outside its design, one that overflows, one not evaluated at every length."""
    rows = [dict(result, low_n=True, n=12) for result in results]
    for result in rows:
        if result["method"] == "rerope:window=64" and result["length"] >= 512:
            result["out_of_design"] = "window 64 is not below the trained length"
    overflow = next(result for result in rows if (result["method"], result["length"]) == ("ntk:factor=8", 1024))
    overflow |= {"n_nonfinite": 3, "value": math.inf, "ci_low": 2.4, "ci_high": math.inf}
    overflow |= {"gain": -math.inf, "gain_low": -math.inf, "gain_high": -0.7}
    overflow |= {"vs_trained": math.inf, "vs_trained_low": 0.7, "vs_trained_high": math.inf}
    return [result for result in rows if (result["method"], result["length"]) != ("linear:factor=8", 512)]


@pytest.fixture
def run():
    return {
        "name": "demo",
        "fingerprint": "3f9a1c07b2d4",
        "config": {
            "architecture": "causal_decoder",
            "model": {"layers": 4, "dim": 128, "heads": 4, "head_dim": 32},
            "position": {"name": "rope", "base": 10000.0},
            "train": {"steps": 1500, "batch": 32, "learning_rate": 0.003, "schedule": "cosine"},
        },
        "versions": {"lmarch": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
        "device": "cpu, 2 cores",
        "git_commit": "a1b2c3d4e5f6",
        "parameters": 820_352,
        "trained_tokens": 6_144_000,
        "wall_seconds": 512.0,
        "validation_bpb": 1.71,
        "history": [
            {"step": step, "loss": 5.5 * math.exp(-step / 220) + 1.2}
            | ({"validation_bpb": 4 * math.exp(-step / 300) + 1.7} if step % 250 == 0 else {})
            for step in range(50, 1501, 50)
        ],
    }
