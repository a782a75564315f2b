"""Attention sinks: 0, 1, 2 or 4 first tokens kept beside a window, at equally many visible keys.

  lmarch reproduce attention_sinks               5 seeds of one layer and one head, on 2 CPU cores
  lmarch reproduce attention_sinks --tier=gpu    two layers at 256 tokens

Published (Xiao et al. 2024, StreamingLLM, arXiv 2309.17453, tables 1 to 3: perplexity explodes once the first tokens leave the
window, and one to four of them repair it). Models of this size had no sinks to lose where rows are cut from running text: in
eleven settings, one seed each (three of real text in bytes and BPE, eight of made languages, 2 to 6 layers, up to 6,000
steps), a window without first tokens was never clearly worse. So the language here is one that needs a sink (Guo et al. 2024,
2410.13835): a head that copies after some symbols has nothing to do after all others, and then learns to attend to `bos`,
which begins every text. The effect is a fraction of a bit, not an explosion: one head of one layer is what leaks.
"""

from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment, Tried

TRIED = (
    Tried(
        "three models of real text, in bytes and BPE, 2 to 6 layers, up to 6,000 steps, one seed each, test text read",
        "a window without first tokens was never clearly worse: what is published was not found; numbers were not kept",
    ),
    Tried(
        "eight made languages cut from running text, one seed each, test text read",
        "the same; numbers were not kept",
    ),
)


def _experiment(length: int, layers: int, steps: int, cost: str) -> Experiment:
    task = "backcopy:triggers=12"
    seen = length - 5

    def kept(sinks: int) -> str:
        return f"rope in streaming:sinks={sinks},size={seen - sinks}"

    return Experiment(
        question="What happens when the first tokens of a text leave the window, and how many of them must stay?",
        source="Xiao et al. 2024 (StreamingLLM), arXiv 2309.17453, tables 1 to 3; the language: Guo et al. 2024, 2410.13835",
        cost=cost,
        configs={"one head": f"task:task={task},length={length},layers={layers},steps={steps}"},
        overrides={"model.num_heads": "1"},
        multiples=(1, 2, 4, 8),
        methods=(kept(0), kept(1), kept(2), kept(4), "rope"),
        windows=200,
        task=task,
        lines="methods",
        metric="bpb",
        claims=(
            *(Claim(kept(sinks), kept(0), multiple=8) for sinks in (1, 2, 4)),
            Claim(kept(0), "rope", multiple=8),
            Claim(kept(4), "rope", multiple=8),
        ),
        gate=2.8,
        tried=TRIED,
    )


TIERS = {
    "cpu": _experiment(length=64, layers=1, steps=3000, cost="8 minutes on 2 CPU cores"),
    "gpu": _experiment(length=256, layers=2, steps=20_000, cost="an hour on one GPU"),
}
