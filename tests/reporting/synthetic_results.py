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


METHODS = tuple(CURVES)
DEPTHS = (0.25, 0.75)


def everything():
    """A row of every kind that an evaluation of a causal decoder stores; of the tasks `copy` and `needle:keys=2`."""
    made = []
    for number, method in enumerate(METHODS):
        for step, length in enumerate(LENGTHS):
            of = lambda value, length=length, method=method, **changes: bare(*method, length, value, **changes)  # noqa: E731
            made.append(row(*method, length, CURVES[method][step]))
            made.append(row(*method, length, CURVES[method][step] / 2, crop=0.82, task="far_copies"))
            made.append(of(0.9 - number / 10, task="repeated", metric="accuracy"))
            made.append(of(1.1 + number / 10, task="repeated", metric="bpb"))
            made.append(of(5.0 + number, task="perplexity", metric=f"ppl_nonoverlap@{length}", stride=length))
            made.append(of(4.0 + number, task="perplexity", metric=f"ppl_slide@{length}_s64", stride=64))
            for corpus in ("copy", "needle:keys=2"):
                for metric, value in (
                    ("exact_match", 0.8 / 2**step),
                    ("accuracy", 0.9 - step / 10),
                    ("nll", 0.5 + step),
                ):
                    made.append(of(value - number / 100, task="problems", metric=metric, corpus=corpus, n=40))
            for depth in DEPTHS:
                distance = (1 - depth) * length
                found = {128: 1.0, 256: 0.75, 512: 0.5, 1024: 0.25}[length] if number else 0.0
                places = {"depth": depth, "distance": distance, "corpus": "needle:keys=2", "n": 20, "low_n": True}
                made.append(of(found, task="by_depth", metric="exact_match", **places))
        for start in range(0, 1024, 64):
            place = {"from_position": start, "to_position": start + 64}
            made.append(bare(*method, 1024, 1.5 + number + start / 4096, task="by_position", **place))
        made.append(bare(*method, 1024, 0.1 * number, task="slope", metric="nll"))
        for layer in (0, 1):
            for metric, value in (("sink_mass", 0.2 + layer / 10), ("largest_logit", 5.0 + layer)):
                looked = bare(*method, 1024, value + number, task="attention", metric=metric, layer=layer)
                made.append({key: entry for key, entry in looked.items() if key not in ("ci_low", "ci_high", "corpus")})
    return made


def bare(method, label, factor, length, value, **changes):
    """A row without the differences that only paired rows have."""
    whole = row(method, label, factor, length, value)
    kept = {key: entry for key, entry in whole.items() if not key.startswith(("gain", "crop", "vs_trained"))}
    return kept | {"axis": None, "ci_low": value - 0.05, "ci_high": value + 0.05} | changes
