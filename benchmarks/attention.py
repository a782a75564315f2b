"""What attention costs: every method relative to RoPE, tiles relative to the dense product, memory against length.

  python benchmarks/attention.py [--lengths=1024,4096,16384] [--methods=rope,rerope:window=512,...] [--dense=512,1024,4096]

Batch 2 (1 from 8,192 tokens on), 4 heads of 64, float32. All functions of a length are compiled first and then run in
turn, so that a noisy machine slows all of them alike; times are the best of `--rounds`, ratios are within one run.
Memory is what the compiler allocates besides arguments and results.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lmarch
from lmarch.attention.spec import AttentionSpec
from lmarch.command_line import parse, parser
from lmarch.registry import split_variants

HEADS, HEAD_DIM, TRAINED = 4, 64, 1024
METHODS = (
    "rope,rerope:window=512,leaky_rerope:window=512,k=16,self_extend:window=512,group=8,dual_chunk,t5_bias,alibi,fire"
)
WINDOWS = ("sliding:size=512", "streaming:size=508,sinks=4", "lm_infinite:size=512,sinks=4")


def spec(method: str, window: str = "full") -> AttentionSpec:
    sizes: dict[str, Any] = dict(head_dim=HEAD_DIM, num_heads=HEADS, trained_length=TRAINED, target_length=16_384)
    return lmarch.attention_spec(position=method, window=window, **sizes)


def functions(made: AttentionSpec, implementation: str) -> dict[str, Callable]:
    """The forward pass, and a gradient in queries, keys and values, which runs it too."""
    keys = jax.random.split(jax.random.key(1), 8)
    learned = {name: p.init(key) for (name, p), key in zip(made.learned().items(), keys, strict=False)}

    def forward(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return lmarch.attend(q, k, v, made, implementation=implementation, learned=learned)

    gradient = jax.grad(lambda *qkv: jnp.sin(forward(*qkv)).sum(), (0, 1, 2))
    return {"forward": forward, "forward+backward": gradient}


def measure(cases: dict[str, Callable], length: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds and MiB of temporary memory of every function."""
    batch = 2 if length < 8192 else 1
    qkv = [jax.random.normal(key, (batch, length, HEADS, HEAD_DIM)) for key in jax.random.split(jax.random.key(0), 3)]
    compiled = {name: jax.jit(function).lower(*qkv).compile() for name, function in cases.items()}
    best = dict.fromkeys(compiled, float("inf"))
    for _ in range(rounds):
        for name, run in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*qkv))
            best[name] = min(best[name], time.perf_counter() - began)
    return {n: (best[n] * 1e3, c.memory_analysis().temp_size_in_bytes / 2**20) for n, c in compiled.items()}


def compare(cases: dict[str, tuple[AttentionSpec, str]], length: int, rounds: int) -> None:
    """Prints each case's time, its ratio to the first case, and its memory."""
    passes = ("forward", "forward+backward")
    every = {(name, p): functions(*case)[p] for name, case in cases.items() for p in passes}
    measured = measure({f"{name}|{p}": function for (name, p), function in every.items()}, length, rounds)
    print(f"\n{length} tokens{'':34}{passes[0]:^28}{passes[1]:^28}")
    print(f"{'':42}" + f"{'ms':>9} {'ratio':>7} {'MiB':>9} " * 2)
    first = next(iter(cases))
    for name in cases:
        cells = []
        for p in passes:
            milliseconds, mebibytes = measured[f"{name}|{p}"]
            cells.append(f"{milliseconds:9.1f} {milliseconds / measured[f'{first}|{p}'][0]:7.2f} {mebibytes:9.1f} ")
        print(f"{name:42}" + "".join(cells), flush=True)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--lengths", default="1024,4096,16384", help="for the methods in tiles")
    flags.add_argument("--dense", default="512,1024,4096", help="for tiles against the dense product")
    flags.add_argument("--methods", default=METHODS)
    flags.add_argument("--rounds", type=int, default=4)
    given, _ = parse(flags, sys.argv[1:])
    for length in map(int, filter(None, given.dense.split(","))):
        compare({f"rope, {name}": (spec("rope"), name) for name in ("tiled", "dense")}, length, given.rounds)
    tiled = {method: (spec(method), "tiled") for method in split_variants(given.methods)}
    tiled |= {f"rope in {window}": (spec("rope", window), "tiled") for window in WINDOWS}
    for length in map(int, filter(None, given.lengths.split(","))):
        compare(tiled, length, given.rounds)


if __name__ == "__main__":
    main()
