"""Associative recall by position method: values by their keys, four pairs at the trained length, one for every 16 tokens.

  lmarch reproduce recall_by_position               3 methods, 5 seeds of 0.1M parameters, on 2 CPU cores
  lmarch reproduce recall_by_position --tier=gpu    at 128 tokens, twice the depth

Published: attention recalls perfectly where it was trained (Arora et al. 2024, Zoology, arXiv 2312.04927); on synthetic tasks
beyond it ALiBi and no positions at all are ahead of rotary ones (Kazemnejad et al. 2023, arXiv 2305.19466, whose tasks were
others). Pairs and distances grow with the length, as in Zoology's own tests at up to 1,024 tokens.

The models are trained with Muon at 1e-2: with AdamW at 3e-3 one of two seeds of RoPE had not learned the task after 5,000
steps; with Muon what was tried (five models of seeds 1 and 2) had after 1,500.

Seen (cpu, 3 seeds): at twice the length ALiBi answers 0.90 of the queries, RoPE 0.77, NoPE 0.55; at four times 0.76,
0.43, 0.29.
"""

from typing import Any

from lmarch.configs.parts.as_trained import task_by_position
from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment


def _experiment(**sizes: Any) -> Experiment:
    return task_by_position(
        "mqar",
        ("rope", "alibi", "nope"),
        question="Which position methods carry associative recall beyond the trained length?",
        source="Arora et al. 2024 (Zoology), arXiv 2312.04927; Kazemnejad et al. 2023, arXiv 2305.19466",
        multiples=(1, 1.25, 1.5, 2, 4),
        metric="accuracy",
        gate=0.8,
        overrides={"train.optimizer": "muon", "train.learning_rate": "0.01"},
        claims=(
            Claim("alibi", "rope", multiple=2, metric="accuracy"),
            Claim("nope", "rope", multiple=2, metric="accuracy"),
            Claim("alibi", "rope", multiple=4, metric="accuracy"),
        ),
        **sizes,
    )


TIERS = {
    "cpu": _experiment(length=64, layers=2, steps=2500, cost="23 minutes on 2 CPU cores"),
    "gpu": _experiment(length=128, layers=4, steps=20_000, cost="hours on one GPU"),
}
