"""Induction by position method: going on as before, in sequences of random tokens that come twice.

  python reproduce.py induction_by_position               3 methods, 3 seeds of 0.1M parameters, on 2 CPU cores
  python reproduce.py induction_by_position --tier=gpu    at 128 tokens, twice the depth

Published: no position method carries induction far, and rotary positions carry it no farther than absolute ones (Gu and Dao
2023, arXiv 2312.00752, table 11: trained at 2^8, at 2^10 all are below 27 %). ALiBi was not among them; its preference for what
is near is the same at every length. Token accuracy is judged: every token of the second half has one right answer.
"""

from pathlib import Path

from lmarch.evaluation.claims import Claim
from lmarch.experiment import AS_TRAINED, Experiment

CONFIG = Path(__file__).parents[1] / "task.py"
METHODS = ("rope", "alibi", "sinusoidal")


def _experiment(length: int, layers: int, steps: int, cost: str) -> Experiment:
    given = f"task=induction,length={length},layers={layers},steps={steps}"
    return Experiment(
        question="Which position methods carry induction beyond the trained length?",
        source="Gu and Dao 2023 (Mamba), arXiv 2312.00752, table 11: absolute and rotary positions; ALiBi is our addition",
        cost=cost,
        configs={method: f"{CONFIG}:{given},position={method}" for method in METHODS},
        overrides={},
        multiples=(1, 1.125, 1.25, 1.5, 2, 4),
        methods=(AS_TRAINED,),
        windows=256,
        task="induction",
        seeds=(0, 1, 2),
        metric="accuracy",
        claims=(
            Claim("alibi", "rope", multiple=2, metric="accuracy"),
            Claim("sinusoidal", "rope", multiple=2, metric="accuracy"),
        ),
        gate=0.9,
    )


TIERS = {
    "cpu": _experiment(length=64, layers=2, steps=2000, cost="12 minutes on 2 CPU cores"),
    "gpu": _experiment(length=128, layers=4, steps=10_000, cost="an hour on one GPU"),
}
