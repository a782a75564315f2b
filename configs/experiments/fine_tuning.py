"""Fine-tuning at four trained lengths: with plain RoPE, with positions interpolated, with YaRN.

  lmarch reproduce fine_tuning               5 seeds on 2 CPU cores; starts from the models of zero_shot_positions
  lmarch reproduce fine_tuning --tier=gpu    the same at `small` size

Published (Chen et al. 2023, arXiv 2306.15595: interpolated positions reach the longer length in hundreds of steps, plain ones
hardly in thousands; Peng et al. 2023, YaRN, 2309.00071: as good at that length, and better beyond it). `base` is the model that
all start from. At eight trained lengths all are beyond what they were fine-tuned for.
"""

from lmarch.configs.parts.as_trained import as_trained
from lmarch.configs.parts.text_model import CORPORA, RATES
from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment

TUNED = {"direct": "rope", "interpolated": "linear", "yarn": "yarn"}


def _experiment(size: str, heads: int, length: int, steps: int, rows: int, windows: int, cost: str) -> Experiment:
    def config(position: str) -> str:
        return f"fine_tune:size={size},length={length},position={position},steps={steps},rows={rows}"

    base = f"causal_decoder:size={size},length={length}"
    return as_trained(
        {"base": base, **{name: config(position) for name, position in TUNED.items()}},
        {"model.num_heads": str(heads)},
        question="Fine-tuned for a moment at four times the trained length, which positions take to it?",
        source="Chen et al. 2023 (position interpolation), arXiv 2306.15595; Peng et al. 2023 (YaRN), arXiv 2309.00071",
        cost=cost,
        starts=dict.fromkeys(TUNED, "base"),
        corpora=CORPORA,
        rates={"base": RATES},  # as zero_shot_positions has it, whose models these are
        multiples=(1, 2, 4, 8),
        precision=0.02,
        windows=windows,
        claims=(
            Claim("interpolated", "direct", multiple=4),
            Claim("yarn", "direct", multiple=4),
            Claim("yarn", "interpolated", multiple=4),
            Claim("yarn", "interpolated", multiple=8),
            Claim("direct", "base", multiple=4),
        ),
    )


TIERS = {
    "cpu": _experiment(
        "tiny", 1, 128, steps=60, rows=8, windows=72, cost="75 minutes on 2 CPU cores, 25 if the base is there"
    ),
    "gpu": _experiment("small", 3, 256, steps=400, rows=16, windows=1024, cost="hours on one GPU"),
}
