"""Induction by position method: going on as before, in sequences of random tokens that come twice.

  lmarch reproduce induction_by_position               3 methods, 5 seeds of 0.1M parameters, on 2 CPU cores
  lmarch reproduce induction_by_position --tier=gpu    at 128 tokens, twice the depth

Published: no position method carries induction far, and rotary positions carry it no farther than absolute ones (Gu and Dao
2023, arXiv 2312.00752, table 11: trained at 2^8, at 2^10 all are below 27 %). ALiBi was not among them; its preference for what
is near is the same at every length. Token accuracy is judged: every token of the second half has one right answer.
"""

from typing import Any

from lmarch.configs.parts.as_trained import task_by_position
from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment


def _experiment(**sizes: Any) -> Experiment:
    return task_by_position(
        "induction",
        ("rope", "alibi", "sinusoidal"),
        question="Which position methods carry induction beyond the trained length?",
        source="Gu and Dao 2023 (Mamba), arXiv 2312.00752, table 11: absolute and rotary positions; ALiBi is our addition",
        multiples=(1, 1.125, 1.25, 1.5, 2, 4),
        metric="accuracy",
        claims=(
            Claim("alibi", "rope", multiple=2, metric="accuracy"),
            Claim("sinusoidal", "rope", multiple=2, metric="accuracy"),
        ),
        **sizes,
    )


TIERS = {
    "cpu": _experiment(length=64, layers=2, steps=2000, cost="25 minutes on 2 CPU cores"),
    "gpu": _experiment(length=128, layers=4, steps=10_000, cost="an hour on one GPU"),
}
