"""What it costs to pack text: tokens a second, bytes a token on disk, memory beyond what was there before, and starting again.

python benchmarks/packing.py [--megabytes=200] [--tokenizer=bytes] [--processes=1]
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

import lmarch.provenance  # noqa: F401  (JAX, which packing imports too and which is not part of its memory)
from lmarch.config import DataConfig
from lmarch.data.packing import pack
from lmarch.data.tokenizers import load_tokenizer


def write_rows(file: Path, megabytes: int) -> None:
    """Documents of about 5 kB of words, a line each."""
    random = np.random.default_rng(0)
    with file.open("w") as rows:
        while rows.tell() < megabytes * 1e6:
            text = " ".join(f"w{number}" for number in random.integers(0, 5000, 900))
            rows.write(json.dumps({"text": text}) + "\n")


def megabytes_at_most() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--megabytes", type=int, default=200, help="of text")
    flags.add_argument("--tokenizer", default="bytes", help="see config.data.tokenizer")
    flags.add_argument("--processes", type=int, default=1, help="that tokenize")
    given = flags.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", given.megabytes)
        data = DataConfig(
            corpus=f"jsonl:{folder}/rows.jsonl",
            tokenizer=given.tokenizer,
            cache_dir=str(folder / "cache"),
            pack_processes=given.processes,
        )
        tokenizer, before = load_tokenizer(given.tokenizer), megabytes_at_most()
        for what in ("packed", "read again"):
            began = time.perf_counter()
            rows = pack(data, "train", 1024, tokenizer)
            seconds, more = time.perf_counter() - began, megabytes_at_most() - before
            print(
                f"{what}: {rows.num_tokens:,} tokens, {rows.num_tokens / seconds:,.0f} a second, {more:.0f} MB more memory"
            )
        size = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
        print(f"{size / rows.num_tokens:.3f} bytes a token on disk")


if __name__ == "__main__":
    main()
