"""What experiments on methods without fine-tuning share: one RoPE model, read at up to 8 trained lengths.

Defined once, so that they train the same models and find each other's by their fingerprint.
"""

from collections.abc import Callable
from typing import Any

from lmarch.configs.parts.text_model import CORPORA, RATES
from lmarch.experiments.definition import Experiment


def zero_shot(heads: int, size: str, length: int, **rest: Any) -> Experiment:
    """`rest`: what is asked, how it is read and what was published."""
    return Experiment(
        configs={"rope": f"causal_decoder:size={size},length={length}"},
        overrides={"model.num_heads": str(heads)},
        corpora=CORPORA,
        rates={"rope": RATES},
        multiples=(1, 2, 4, 8),
        precision=0.02,  # half of it takes four times the windows
        lines="methods",
        **rest,
    )


def tiers(asked: Callable[[int], dict[str, Any]], cpu_cost: str) -> dict[str, Experiment]:
    """`asked`: the rest of the experiment, for a trained length."""
    return {
        "cpu": zero_shot(1, "tiny", 128, windows=72, cost=cpu_cost, **asked(128)),
        "gpu": zero_shot(3, "small", 256, windows=1024, cost="hours on one GPU", **asked(256)),
    }
