"""How much of an evaluation is compiled compute: one method, one suite, a model with random weights.

  python benchmarks/evaluation.py [--dim=256] [--suite=cpu]

Prints the seconds spent waiting for compiled programs (compilation left out, attention statistics counted), those of the whole
evaluation with its report, and how many programs scoring compiled: one for each length and number of targets. On 2 CPU cores
without a compilation cache: 41 of 51 s, 82 %, at 3.3 million parameters; 18 of 27 s, 67 %, at 0.8 million (--dim=128).
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from lmarch.config import from_dict
from lmarch.data.plan import make_plan
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
    waited = []
    fetch = jax.device_get

    def timed(results: Any) -> Any:  # programs are dispatched without waiting: what they take is spent here
        began = time.perf_counter()
        fetched = fetch(results)
        waited.append(time.perf_counter() - began)
        return fetched

    with tempfile.TemporaryDirectory() as folder:
        model = Model(config, definition, definition.init(jax.random.key(0)), tokenizer, Path(folder), 0)
        jax.device_get = timed
        began = time.perf_counter()
        evaluate(model, [("eval.suite", given.suite), ("eval.methods", "rope")])
        whole = time.perf_counter() - began
    computed = sum(waited)
    print(
        f"{definition.num_parameters:,} parameters, suite {given.suite}, one method, on {jax.devices()[0].device_kind}:"
    )
    programs = scoring.compiled.cache_info().misses
    print(
        f"{computed:.1f} s computing of {whole:.1f} s in all: {computed / whole:.0%}; {programs} programs for scoring"
    )


if __name__ == "__main__":
    main()
