"""Positions that were trained: rotary, biases, sinusoids and none, all read past the length they were trained at.

  lmarch reproduce beyond_trained_length               6 methods, 5 seeds of 0.4M parameters at 64 tokens, on 2 CPU cores
  lmarch reproduce beyond_trained_length --tier=gpu    at `small` size and 256 tokens

Published (Press et al. 2022, arXiv 2108.12409: ALiBi flat < T5 bias < rotary < sinusoidal beyond L; Chi et al. 2022, KERPLE,
2205.09921: its logarithmic kernel is ahead of ALiBi; Haviv et al. 2022, 2203.16634: without positions the trained length is
read a little worse than with them; Kazemnejad et al. 2023, 2305.19466: and longer ones better than with rotary). Here on the
same targets at every length, which takes the early-token curse out of it.
"""

from typing import Any

from lmarch.configs.parts.as_trained import text_beyond_length
from lmarch.configs.parts.text_model import SMALLER
from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment

METHODS = ("alibi", "rope", "t5_bias", "kerple_log", "sinusoidal", "nope")


def _experiment(size: str, length: int, **rest: Any) -> Experiment:
    return text_beyond_length(
        {m: f"causal_decoder:size={size},length={length},rope={m}" for m in METHODS},
        question="Which position methods, trained at L, can be read beyond L as they are?",
        source="Press et al. 2022, arXiv 2108.12409; Chi et al. 2022, 2205.09921; Haviv et al. 2022, 2203.16634",
        claims=(
            Claim("alibi", "t5_bias", multiple=8),
            Claim("t5_bias", "rope", multiple=8),
            Claim("rope", "sinusoidal", multiple=1.5),
            Claim("rope", "sinusoidal", multiple=8),
            Claim("kerple_log", "alibi", multiple=8),
            Claim("kerple_log", "rope", multiple=8),
            Claim("rope", "nope", multiple=1),
            Claim("nope", "rope", multiple=2),
        ),
        **rest,
    )


TIERS = {
    "cpu": _experiment("tiny", 64, overrides=SMALLER, windows=96, cost="two to three hours on 2 CPU cores"),
    "gpu": _experiment("small", 256, windows=1024, cost="hours on one GPU"),
}
