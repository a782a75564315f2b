"""How fast batches are made of random packed rows on disk, by objective: by one core, and as the loop is fed with them.

  python benchmarks/loader.py [--objectives=causal_lm,span_corruption] [--processes=0] [--seconds=2]

Tokens are places of a batch: rows times their length. `one core`: the best of five, by processor time, which what else runs on
the machine changes little. `fed`: by the clock, through the thread (or so many processes) that makes batches ahead; input is
a bottleneck only where a model trains at more tokens a second than this.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lmarch.config import from_dict
from lmarch.data.loader import Loader
from lmarch.data.packing import pack
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError

ROWS, LENGTHS = 32, (128, 1024)
OBJECTIVES = {  # and the architecture that is asked
    "causal_lm": "causal_decoder",
    "prefix_lm": "prefix_decoder",
    "span_corruption": "encoder_decoder",
    "ul2:sentinels=200": "encoder_decoder",
    "blank_infilling": "prefix_decoder",
}


def loader_of(folder: Path, objective: str, length: int) -> Loader:
    architecture = OBJECTIVES[objective]
    model = {"architecture": architecture, "trained_length": length}
    if architecture == "encoder_decoder":
        model |= {"trained_length": 4 * length, "encoder": {"trained_length": length}}
    if objective == "blank_infilling":
        model["block_positions"] = "rotary"
    data = {"corpus": f"text:{folder}/*.txt", "cache_dir": str(folder / "cache"), "batch_rows": ROWS}
    config = from_dict({"data": {**data, "objective": objective}, "model": model, "train": {"steps": 1}})
    plan, tokenizer = make_plan(config), load_tokenizer("bytes")
    rows = pack(config.data, "train", plan.text_length, tokenizer, plan.budget)
    return Loader(rows, ROWS, 0, plan.feed(tokenizer))


def rate(make: Callable[[int], object], clock: Callable[[], float], seconds: float) -> float:
    """Things a second."""
    began, count = clock(), 0
    while clock() - began < seconds:
        make(count)
        count += 1
    return count / (clock() - began)


def fed(loader: Loader, processes: int, seconds: float) -> float:
    batches = loader.iterate(start=0, prefetch=8, processes=processes)
    for _ in range(16 + 8 * processes):  # what was made ahead does not count
        next(batches)
    found = rate(lambda _: next(batches), time.perf_counter, seconds)
    batches.close()
    return found


def write_text(folder: Path, num_files: int = 300, mean_bytes: int = 6_000) -> None:
    random = np.random.default_rng(0)
    for n in range(num_files):
        size = 50 + int(random.exponential(mean_bytes))
        (folder / f"{n:03}.txt").write_bytes(random.integers(32, 127, size, np.uint8).tobytes())


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--objectives", default=",".join(OBJECTIVES), help="which ones are measured")
    flags.add_argument("--processes", type=int, default=0, help="how many make batches ahead; 0: a thread")
    flags.add_argument("--seconds", type=float, default=2.0, help="how long each is measured")
    given = flags.parse_args()
    print(f"{'objective':<18} {'length':>6} {'one core':>12} {'fed':>12}   tokens/s")
    with tempfile.TemporaryDirectory() as name:
        write_text(Path(name))
        for objective in given.objectives.split(","):
            if objective not in OBJECTIVES:
                raise UserError(f"--objectives={objective} is not one of {', '.join(OBJECTIVES)}")
            for length in LENGTHS:
                loader, tokens = loader_of(Path(name), objective, length), ROWS * length
                core = max(rate(loader.batch, time.process_time, given.seconds / 5) for _ in range(5))
                ahead = fed(loader, given.processes, given.seconds)
                print(f"{objective:<18} {length:>6} {core * tokens:>12,.0f} {ahead * tokens:>12,.0f}", flush=True)


if __name__ == "__main__":
    main()
