"""Causal decoder, prefix decoder and encoder-decoder at matched parameters and at matched FLOPs.

  lmarch reproduce architectures               6 models, 5 seeds of 0.8M to 1.6M parameters at 64 tokens, on 2 CPU cores
  lmarch reproduce architectures --tier=gpu    at `small` size and 256 tokens

All read the same rows of text with the same splits and are scored on the same targets: bits per byte given the same text,
along the prefix (or encoder) side, the continuation (or decoder) side and both. The causal decoder comes twice: scored on
every token, and on what follows the split only, as many as the others. So does the encoder-decoder: with the causal
decoder's parameters (half of its FLOPs) and with its FLOPs (twice its parameters); parameters and FLOPs match within 2 %.
The latter also with cross-attention at positions that go on from the encoder's: unrotated, a decoder has to find the end of
a text whose rotations tell distances only.

Published: trained alike and asked without fine-tuning, the causal decoder is ahead of the prefix decoder and that of the
encoder-decoder (Wang et al. 2022, arXiv 2204.05832), for it is scored on every token and the others on half of them;
scored on the same tokens, seeing the prefix both ways helps (Raffel et al. 2020, arXiv 1910.10683, table 2); for the compute
of its pretraining a decoder says more than an encoder-decoder with continuous positions (Zhang et al. 2025, RedLLM).

Expect on the cpu tier 2.1 bits per byte of the causal decoder, 2.4 of the prefix decoder, 2.5 of the encoder-decoders, which
hardly use their encoder after 500 steps: their line along the prefix is flat, it is their decoder's. With ReRoPE all hold to
four trained lengths within 0.06.
"""

from collections.abc import Mapping

from lmarch.configs.parts.text_model import CORPORA, RATES
from lmarch.evaluation.claims import Claim
from lmarch.experiments.definition import Experiment, Tried


def _configs(size: str, length: int) -> dict[str, str]:
    given = f"size={size},length={length}"
    return {
        "causal decoder": f"causal_decoder:{given}",
        "causal decoder, suffix loss": f"causal_decoder:{given},objective=causal_lm:loss=suffix",
        "prefix decoder": f"prefix_decoder:{given}",
        "encoder-decoder, equal parameters": f"encoder_decoder:{given},match=parameters",
        "encoder-decoder, equal FLOPs": f"encoder_decoder:{given},match=flops",
        "the same, continuous positions": f"encoder_decoder:{given},match=flops,cross_positions=continuous",
    }


def _experiment(size: str, length: int, overrides: Mapping[str, str], windows: int, cost: str) -> Experiment:
    return Experiment(
        question="At equal parameters and at equal FLOPs, which architecture continues best, and how far?",
        source="Wang et al. 2022, arXiv 2204.05832; Raffel et al. 2020, arXiv 1910.10683; Zhang et al. 2025 (RedLLM)",
        cost=cost,
        configs=_configs(size, length),
        overrides=overrides,
        multiples=(1, 2, 4),
        precision=0.02,
        corpora=CORPORA,
        rates=dict.fromkeys(_configs(size, length), RATES),
        methods=("rope", f"rerope:window={length // 2}"),
        windows=windows,
        tried=(Tried("claims", "written after the results of one seed on test text were seen"),),
        claims=(
            Claim("causal decoder", "prefix decoder", multiple=1, axis="both"),
            Claim("prefix decoder", "encoder-decoder, equal FLOPs", multiple=1, axis="both"),
            Claim("prefix decoder", "causal decoder, suffix loss", multiple=1, axis="both"),
            Claim("causal decoder", "the same, continuous positions", multiple=1, axis="both"),
        ),
    )


TIERS = {
    "cpu": _experiment(
        "tiny",
        64,
        {"train.steps": "500", "train.warmup_steps": "25", "train.eval_steps": "250", "train.checkpoint_steps": "250"},
        windows=96,
        cost="two to three hours on 2 CPU cores",
    ),
    "gpu": _experiment("small", 256, {"model.compute_dtype": "bfloat16"}, windows=512, cost="hours on one GPU"),
}
