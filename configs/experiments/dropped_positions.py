"""DroPE: positions that are dropped for the last part of training, and then read beyond the trained length.

  lmarch reproduce dropped_positions               3 models, 5 seeds of 0.4M parameters at 64 tokens, on 2 CPU cores
  lmarch reproduce dropped_positions --tier=gpu    at `small` size and 256 tokens

Published (Gelberg et al. 2025, DroPE, arXiv 2512.12167): at twice the trained length RoPE and PI find no needle, NTK a fifth,
and a model without positions from the end of its training on finds most, while its loss at the trained length is that of RoPE.
Here bits per byte of text: what dropping costs at the trained length, and what is left of it beyond. Expect less than was
published: models of this size need a thousand steps to read without positions at all, and have 250 after dropping them.
"""

from typing import Any

from lmarch.configs.parts.as_trained import text_beyond_length
from lmarch.configs.parts.text_model import SMALLER
from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment


def _experiment(size: str, length: int, steps: int, dropped: int, **rest: Any) -> Experiment:
    given = f"causal_decoder:size={size},length={length}"
    drops = f"dropped_positions:size={size},length={length},steps={steps},dropped={dropped}"
    return text_beyond_length(
        {"rope": f"{given},rope=rope", "dropped": drops, "nope": f"{given},rope=nope"},
        question="Can a model drop its positions at the end of training, and be read farther for it?",
        source="Gelberg et al. 2025 (DroPE), arXiv 2512.12167, table 1 and figure 5",
        claims=(
            Claim("dropped", "nope", multiple=1),
            Claim("dropped", "rope", multiple=2),
            Claim("dropped", "rope", multiple=4),
            Claim("dropped", "nope", multiple=2),
        ),
        **rest,
    )


TIERS = {
    "cpu": _experiment(
        "tiny",
        64,
        steps=1000,
        dropped=250,
        overrides=SMALLER,
        windows=96,
        cost="70 minutes on 2 CPU cores, half an hour after beyond_trained_length",
    ),
    "gpu": _experiment("small", 256, steps=4000, dropped=500, windows=1024, cost="hours on one GPU"),
}
