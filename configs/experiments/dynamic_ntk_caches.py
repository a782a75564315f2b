"""Dynamic NTK with a consistent and with a stale cache: keys turned by today's base, or by that of when they came.

  lmarch reproduce dynamic_ntk_caches               on 2 CPU cores; shares its models with zero_shot_positions
  lmarch reproduce dynamic_ntk_caches --tier=gpu

Published (the blog post of the method's second author, 2023; Hugging Face transformers issue 25104: perplexity at 8k tokens
4.9 consistent, 7.7 with keys cached under older bases, 15.9 with the largest base throughout). `form=full` turns all keys by
the base of the whole text, `form=stepwise` each query by the base of its own time and each key by that of its.
"""

from typing import Any

from lmarch.configs.parts.zero_shot import tiers
from lmarch.evaluation.claims import Claim


def _asked(length: int) -> dict[str, Any]:
    full, stepwise = "dynamic_ntk:form=full", "dynamic_ntk:form=stepwise"
    return dict(
        question="What does it cost to keep keys turned by a base that has since grown?",
        source="Hugging Face transformers issue 25104 and the blog post it cites: perplexities of LLaMA-7B at 2 to 8k tokens",
        methods=("rope", full, stepwise, "ntk"),
        gate=3.0,
        claims=(Claim(full, stepwise, multiple=2), Claim(full, stepwise, multiple=4), Claim(full, "rope", multiple=4)),
    )


TIERS = tiers(_asked, cpu_cost="an hour and a half on 2 CPU cores, 10 minutes after zero_shot_positions")
