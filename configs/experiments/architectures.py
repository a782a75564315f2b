"""Causal decoder, prefix decoder and encoder-decoder at matched parameters and at matched FLOPs.

  python reproduce.py architectures               on 2 CPU cores, about 30 minutes
  python reproduce.py architectures --tier=gpu    the same at `small` size and three seeds, on one GPU

All read the same rows of text with the same splits and are scored on the same targets: bits per byte given the same text,
along the prefix (or encoder) side, the continuation (or decoder) side and both. The causal decoder comes twice: scored on
every token, and on what follows the split only, as many as the others. So does the encoder-decoder: with the causal
decoder's parameters (half of its FLOPs) and with its FLOPs (twice its parameters); parameters and FLOPs match within 2 %.
The latter also with cross-attention at positions that go on from the encoder's: unrotated, a decoder has to find the end of
a text whose rotations tell distances only.

Expect, from the literature (Wang et al. 2022, arXiv 2204.05832; Raffel et al. 2020): at equal steps the causal decoder is
ahead, for it is scored on every token and the others on half of them; the prefix decoder is close behind, the
encoder-decoder farther. On the cpu tier, one seed, at 128 tokens: 1.87 bits per byte causal, 2.12 with suffix loss, 2.11
prefix, 2.41 encoder-decoder of equal FLOPs (2.26 where half of the context continues the source in its decoder). After 400
steps encoder-decoders hardly use their encoder yet (another text's source costs them 0.01), which is why their line along
the prefix is flat: it is their decoder's. With ReRoPE all hold to 512 tokens within 0.1.
"""

from pathlib import Path

from lmarch.experiment import Experiment

CONFIGS = Path(__file__).parents[1]
QUESTION = (
    "At equal parameters and at equal FLOPs, which architecture says a continuation best, and how far does it carry?"
)
SOURCE = "Wang et al. 2022, arXiv 2204.05832; Raffel et al. 2020, arXiv 1910.10683; Zhang et al. 2025 (RedLLM)"
METHODS = ("rope", "rerope:window=64")


def _configs(size: str, length: int) -> dict[str, str]:
    given = f"size={size},length={length}"
    return {
        "causal decoder": f"{CONFIGS}/causal_decoder.py:{given}",
        "causal decoder, suffix loss": f"{CONFIGS}/causal_decoder.py:{given},objective=causal_lm:loss=suffix",
        "prefix decoder": f"{CONFIGS}/prefix_decoder.py:{given}",
        "encoder-decoder, equal parameters": f"{CONFIGS}/encoder_decoder.py:{given},match=parameters",
        "encoder-decoder, equal FLOPs": f"{CONFIGS}/encoder_decoder.py:{given},match=flops",
        "the same, continuous positions": f"{CONFIGS}/encoder_decoder.py:{given},match=flops,cross_positions=continuous",
    }


TIERS = {
    "cpu": Experiment(
        question=QUESTION,
        source=SOURCE,
        cost="30 minutes on 2 CPU cores",
        configs=_configs("tiny", 128),
        overrides={"train.steps": "400", "train.warmup_steps": "40", "train.eval_steps": "100"},
        multiples=(1, 2, 4),
        methods=METHODS,
        windows=128,
    ),
    "gpu": Experiment(
        question=QUESTION,
        source=SOURCE,
        cost="hours on one GPU",
        configs=_configs("small", 256),
        overrides={"model.compute_dtype": "bfloat16"},
        multiples=(1, 2, 4),
        methods=("rope", "rerope:window=128"),
        windows=512,
        seeds=(0, 1, 2),
    ),
}
