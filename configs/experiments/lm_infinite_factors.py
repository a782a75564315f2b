"""What LM-Infinite is made of: a Lambda-shaped mask and a ceiling on distances. Trained at L, tested at 8 L.

  lmarch reproduce lm_infinite_factors               on 2 CPU cores; shares its models with zero_shot_positions
  lmarch reproduce lm_infinite_factors --tier=gpu    5 seeds at `small` size and 256 tokens, on one GPU

Published (Han et al. 2024, arXiv 2308.16137, Fig. 5; Su 2023 for the last claim): each part alone lets the loss rise, both
together keep it flat. A ceiling alone keeps it flat too once it lies well inside what was trained: that is ReRoPE.
"""

from typing import Any

from lmarch.configs.parts.zero_shot import tiers
from lmarch.evaluation.claims import Claim


def _asked(length: int) -> dict[str, Any]:
    neither, both = "rope", "rope in lm_infinite"
    mask, ceiling, low_ceiling = (
        "rope in lm_infinite:capped=False",
        f"rerope:window={length - 1}",
        f"rerope:window={length // 2}",
    )

    def ahead(better: str, worse: str) -> Claim:
        return Claim(better, worse, multiple=8)

    return dict(
        question="Does LM-Infinite need its mask, its ceiling on distances, or both?",
        source="Han et al. 2024 (LM-Infinite), arXiv 2308.16137, Fig. 5: loss at many times the trained length",
        methods=(neither, mask, ceiling, low_ceiling, both),
        gate=3.0,
        claims=(
            ahead(both, mask),
            ahead(both, ceiling),
            ahead(both, neither),
            ahead(mask, neither),
            ahead(ceiling, neither),
            ahead(low_ceiling, ceiling),
        ),
    )


TIERS = tiers(_asked, cpu_cost="an hour and a half on 2 CPU cores, 8 minutes after zero_shot_positions")
