"""Dense and tiled attention: seconds and temporary memory against length, forward and gradient.

  python benchmarks/attention.py [--lengths=128,256,512,1024,2048,4096,16384]

Dense is left out where its [T, S] matrix would take more than a gibibyte. Each length is timed in turn for every
implementation, best of three; memory is what the compiler allocates besides arguments and results.
"""

import sys
import time
from collections.abc import Callable

import jax

import lmarch
from lmarch.command_line import parse, parser
from lmarch.typed import parse_value

HEADS, HEAD_DIM = 4, 32


def functions(implementation: str) -> dict[str, Callable]:
    spec = lmarch.attention_spec(head_dim=HEAD_DIM, num_heads=HEADS, trained_length=128)

    def forward(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return lmarch.attend(q, k, v, spec, implementation=implementation)

    return {"forward": forward, "gradient": jax.grad(lambda *qkv: forward(*qkv).sum(), (0, 1, 2))}


def measure(function: Callable, length: int, batch: int) -> tuple[float, float]:
    """Milliseconds, and MiB of temporary memory."""
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = [jax.random.normal(key, (batch, length, HEADS, HEAD_DIM)) for key in keys]
    compiled = jax.jit(function).lower(*inputs).compile()
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        best = min(best, time.perf_counter() - began)
    return best * 1e3, compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--lengths", default="128,256,512,1024,2048,4096,16384")
    given, _ = parse(flags, sys.argv[1:])
    lengths = parse_value(given.lengths)
    print(f"{'length':>8} {'batch':>5}  {'':8} {'dense ms':>9} {'MiB':>7}   {'tiled ms':>9} {'MiB':>7}")
    for length in lengths if isinstance(lengths, tuple) else (lengths,):
        batch = max(1, 4096 // length)
        for pass_ in ("forward", "gradient"):
            cells = []
            for implementation in ("dense", "tiled"):
                if implementation == "dense" and batch * HEADS * length**2 * 4 > 2**30:
                    cells.append(f"{'-':>9} {'-':>7}")
                    continue
                milliseconds, mebibytes = measure(functions(implementation)[pass_], length, batch)
                cells.append(f"{milliseconds:9.1f} {mebibytes:7.1f}")
            print(f"{length:8} {batch:5}  {pass_:8} {'   '.join(cells)}")


if __name__ == "__main__":
    main()
