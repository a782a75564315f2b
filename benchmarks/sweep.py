"""Do two workers halve a sweep? 12 small trials, one core each, by one worker and by two.

  python benchmarks/sweep.py [--steps=400]

Both sweeps run on this machine's first two cores, each trial on one; the ratio is taken in one run. Measured with
--steps=300 on 2 quiet cores, starts and compilation included: 172 s by one worker, 91 s by two, 0.53 of the time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPACE = """
from lmarch.sweeping.space import grid, product, seeds

def get_space(arg):
    return product(grid({"train.learning_rate": (1e-3, 3e-3, 1e-2)}), seeds(0, 1, 2, 3))
"""


def seconds(folder: Path, name: str, command: list[str], workers: int) -> float:
    """Of a whole sweep; one worker gets one core too."""
    began = time.perf_counter()
    subprocess.run([*command, f"--workdir={folder / name}", f"--workers={workers}"], cwd=ROOT, check=True)
    return time.perf_counter() - began


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--steps", type=int, default=400)
    given = flags.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "space.py").write_text(SPACE)
        command = [sys.executable, "sweep.py", "--config=configs/causal_decoder.py:size=tiny,length=64"]
        command += [
            f"--space={folder / 'space.py'}",
            "--suite=none",
            "--config.model.dim=64",
            "--config.model.num_layers=2",
        ]
        command += [
            f"--config.train.steps={given.steps}",
            "--config.train.warmup_steps=10",
            "--config.train.eval_rows=16",
        ]
        command += [f"--config.train.eval_steps={given.steps}", f"--config.train.checkpoint_steps={given.steps}"]
        took = {}
        for workers in (1, 2):
            os.sched_setaffinity(0, cores[:workers])
            took[workers] = seconds(folder, str(workers), command, workers)
    print(f"12 trials: {took[1]:.0f} s by one worker, {took[2]:.0f} s by two: {took[2] / took[1]:.2f} of the time")


if __name__ == "__main__":
    main()
