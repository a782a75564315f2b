"""What the training loop adds to the bare compiled step, in one run on the same machine.

  python benchmarks/step_loop.py [--config=configs/demo.py] [--rounds=4] [--config.model.dim=256 ...]

Rounds of bare steps on one batch that lies on the device alternate with short real runs (loader, prefetch, transfer,
metrics read a step late, JSONL, TensorBoard, terminal); the medians over all windows of 10 steps are compared, so that
a machine that is slow for a while is slow for both.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from lmarch.command_line import parse, parser, quiet_libraries, use_compilation_cache
from lmarch.config_files import load_config
from lmarch.data.feed import Feed
from lmarch.data.loader import Loader
from lmarch.data.packing import pack
from lmarch.data.tokenizers import load_tokenizer
from lmarch.models.definition import ModelDefinition
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics
from lmarch.training.sharding import put_rows
from lmarch.training.step import make_program

WINDOW, WINDOWS = 10, 5


def main() -> None:
    quiet_libraries()
    flags = parser(__doc__)
    flags.add_argument("--config", default="configs/demo.py")
    flags.add_argument("--rounds", type=int, default=4)
    given, overrides = parse(flags, sys.argv[1:])
    steps = WINDOW * WINDOWS
    short = {"steps": steps, "warmup_steps": 1, "eval_steps": "none", "checkpoint_steps": "none", "log_steps": WINDOW}
    config = load_config(given.config, [*overrides, *((f"train.{key}", str(value)) for key, value in short.items())])
    use_compilation_cache(config.data.cache_dir)

    tokenizer = load_tokenizer(config.data.tokenizer)
    rows = pack(config.data, "train", config.row_length, tokenizer)
    program = make_program(config, ModelDefinition(config.model, tokenizer.vocab_size))
    loader = Loader(rows, config.data.batch_rows, config.data.seed, Feed(tokenizer.byte_lengths))
    batch = put_rows(loader.batch(0), program.mesh)
    rates = program.rates.at(0)
    compiled = program.step.lower(program.abstract_state, batch, rates).compile()

    bare: list[float] = []
    looped: list[float] = []
    for _ in range(given.rounds):
        state = jax.block_until_ready(program.init())
        for _ in range(WINDOWS):
            began = time.perf_counter()
            for _ in range(WINDOW):
                state, metrics = compiled(state, batch, rates)
            jax.block_until_ready(metrics)
            bare.append((time.perf_counter() - began) / WINDOW)
        with tempfile.TemporaryDirectory() as folder:
            train(config, folder)
            rates = [m["tokens_per_second"] for m in read_metrics(Path(folder)) if "tokens_per_second" in m]
            looped += [config.tokens_per_step / rate for rate in rates]
    ratio = statistics.median(looped) / statistics.median(bare)
    print(f"bare step {statistics.median(bare) * 1e3:.1f} ms, in the loop {statistics.median(looped) * 1e3:.1f} ms")
    print(f"the loop adds {100 * (ratio - 1):+.1f} %")


if __name__ == "__main__":
    main()
