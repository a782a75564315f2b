"""Rows of results.jsonl as a small decoder trained at 128 bytes would give them."""

TRAINED = 128
LENGTHS = (128, 256, 512, 1024)
CURVES = {
    ("rope", "rope", None): (1.640, 2.140, 3.103, 3.604),
    ("linear:factor=8", "linear ×8", 8.0): (2.480, 2.510, 2.624, 2.890),
    ("ntk:factor=8", "ntk ×8", 8.0): (1.702, 1.648, 1.871, 2.410),
    ("rerope:window=64", "rerope w64", None): (1.655, 1.632, 1.621, 1.618),
}


def row(method, label, factor, length, value, crop=1.640, half=0.041, **changes):
    """One line of results.jsonl; differences have a third of the half width, for they are paired."""
    at_trained = dict((key[0], curve[0]) for key, curve in CURVES.items()).get(method, value)
    gain, cost = crop - value, value - at_trained
    paired = 0.0 if gain == 0 else half / 3
    growth = 0.0 if cost == 0 else half / 3
    return {
        "run_id": "demo-3f9a1c",
        "architecture": "causal_decoder",
        "trained_with": "rope",
        "method": method,
        "label": label,
        "factor": factor,
        "trained_length": TRAINED,
        "length": length,
        "metric": "bpb",
        "task": "paired",
        "corpus": "sotu",
        "split": "test",
        "value": value,
        "n": 40,
        "n_windows": 80,
        "n_bytes": 5120,
        "ci_low": value - half,
        "ci_high": value + half * 1.1,
        "gain": gain,
        "gain_low": gain - paired,
        "gain_high": gain + paired,
        "vs_trained": cost,
        "vs_trained_low": cost - growth,
        "vs_trained_high": cost + growth,
        "crop": crop,
        "crop_low": crop - half,
        "crop_high": crop + half,
        "seed_model": 0,
        "seed_data": 0,
        "seed_eval": 0,
        "targets": 64,
        "stride": None,
        "bos": "never",
        "dtype": "float32",
        "implementation": "dense" if length < 1024 else "tiled",
        "tokens_per_second": 41000.0 / (length / TRAINED),
        "n_nonfinite": 0,
        "low_n": False,
        "out_of_design": None,
        "manifest_sha": "9c1e5b7d20aa",
        "checkpoint_step": 1500,
    } | changes
