"""How fast the loader alone makes batches: random packed rows on disk, read through the prefetch thread.

  python benchmarks/loader.py [--seconds=2]

Compare with what a step consumes: input is a bottleneck only where a model trains at more tokens a second than this.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from lmarch.config import DataConfig
from lmarch.data.feed import Feed
from lmarch.data.loader import Loader
from lmarch.data.packing import pack
from lmarch.data.tokenizers import load_tokenizer

SHAPES = ((32, 128), (32, 1024), (256, 128))  # rows a batch, tokens a row


def batches_per_second(folder: Path, batch_rows: int, length: int, seconds: float) -> float:
    tokenizer = load_tokenizer("bytes")
    data = DataConfig(corpus=f"text:{folder}/*.txt", cache_dir=str(folder / "cache"))
    rows = pack(data, "train", length, tokenizer)
    batches = Loader(rows, batch_rows, 0, Feed(tokenizer.byte_lengths)).iterate(start=0, prefetch=8)
    for _ in range(16):  # what was made ahead does not count
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(batches)
        count += 1
    elapsed = time.perf_counter() - began
    batches.close()
    return count / elapsed


def write_text(folder: Path, num_files: int = 40, file_bytes: int = 200_000) -> None:
    random = np.random.default_rng(0)
    for n in range(num_files):
        (folder / f"{n}.txt").write_bytes(random.integers(32, 127, file_bytes, np.uint8).tobytes())


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--seconds", type=float, default=2.0, help="how long each shape is measured")
    seconds = flags.parse_args().seconds
    print(f"{'rows':>6} {'length':>7} {'batches/s':>10} {'tokens/s':>12}")
    with tempfile.TemporaryDirectory() as name:
        write_text(Path(name))
        for batch_rows, length in SHAPES:
            rate = batches_per_second(Path(name), batch_rows, length, seconds)
            print(f"{batch_rows:>6} {length:>7} {rate:>10,.0f} {rate * batch_rows * length:>12,.0f}")


if __name__ == "__main__":
    main()
