"""Copying by position method: trained on strings of up to n = 16 symbols, asked about longer ones.

  lmarch reproduce copy_by_position               4 methods, 5 seeds of 0.2M parameters, on 2 CPU cores
  lmarch reproduce copy_by_position --tier=gpu    up to n = 63, twice the depth

Published: which position method is used decides how far copying carries; rotary and sinusoidal positions fail just beyond
the trained length, no positions and ALiBi go on for some symbols and then fail too (Kazemnejad et al. 2023, arXiv
2305.19466, whose rotary method turns a quarter of each head; Jelassi et al. 2024, 2402.01032). All of a copy and its end must
be right. A method that merges positions at test time cannot do it at all, whatever it does for text (see
zero_shot_positions), so this is no ranking of those.
"""

from typing import Any

from lmarch.configs.parts.as_trained import task_by_position
from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment


def _ahead(better: str, worse: str) -> Claim:
    return Claim(better, worse, multiple=1.125, metric="exact_match")


def _experiment(**sizes: Any) -> Experiment:
    return task_by_position(
        "copy",
        ("rope", "alibi", "nope", "sinusoidal"),
        question="Which position methods let a model copy longer strings than it was trained on?",
        source="Kazemnejad et al. 2023, arXiv 2305.19466; Jelassi et al. 2024, arXiv 2402.01032",
        multiples=(1, 1.0625, 1.125, 1.1875, 1.25, 1.5, 2),
        metric="exact_match",
        claims=(
            _ahead("alibi", "rope"),
            _ahead("nope", "rope"),
            _ahead("alibi", "sinusoidal"),
            _ahead("nope", "sinusoidal"),
        ),
        **sizes,
    )


TIERS = {
    "cpu": _experiment(length=34, layers=4, steps=2000, cost="33 minutes on 2 CPU cores"),
    "gpu": _experiment(length=128, layers=8, steps=10_000, cost="an hour on one GPU"),
}
