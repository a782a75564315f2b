"""How much of an evaluation is compiled compute: one method, one suite, a model with random weights.

  python benchmarks/evaluation.py [--dim=256] [--suite=cpu]

Prints the seconds that went into scoring (fed tokens over their rate, which leaves compilation out), those of the whole
evaluation with its report, and how many programs were compiled. On 2 quiet CPU cores, at 3.3 million parameters and without a
compilation cache: 44 of 67 s, 66 %; what attention statistics compute is not counted as scoring.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from lmarch.config import from_dict
from lmarch.data.feed import make_plan
from lmarch.data.tokenizers import load_tokenizer
from lmarch.evaluation import scoring
from lmarch.evaluation.run import evaluate
from lmarch.loading import Model
from lmarch.models.definition import ModelDefinition


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("--dim", type=int, default=256)
    flags.add_argument("--suite", default="cpu")
    given = flags.parse_args()
    sizes = dict(trained_length=128, num_layers=4, dim=given.dim, num_heads=4)
    config = from_dict({"model": sizes, "train": {"steps": 1}})
    tokenizer = load_tokenizer("bytes")
    definition = ModelDefinition(config.model, make_plan(config).vocabulary_size(tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        model = Model(config, definition, definition.init(jax.random.key(0)), tokenizer, Path(folder), 0)
        began = time.perf_counter()
        evaluate(model, [("eval.suite", given.suite), ("eval.methods", "rope")])
        whole = time.perf_counter() - began
        scored = 0.0
        for file in Path(folder).rglob("items/*.npz"):
            length = int(file.name.partition("@")[2].partition("-")[0])
            with np.load(file) as stored:
                scored += len(stored["nll_NS"]) * length / float(stored["tokens_per_second"])
    print(
        f"{definition.num_parameters:,} parameters, suite {given.suite}, one method, on {jax.devices()[0].device_kind}:"
    )
    programs = scoring._compiled.cache_info().misses
    print(f"{scored:.1f} s scoring of {whole:.1f} s in all: {scored / whole:.0%}; {programs} programs")


if __name__ == "__main__":
    main()
