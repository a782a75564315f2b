"""An encoder-decoder (Transformer, T5), matched to the causal decoder of its size in one respect at a time.

  lmarch train --config=encoder_decoder:size=tiny,match=flops --workdir=runs/encdec
  lmarch eval --workdir=runs/encdec

match=parameters   half of the layers on each side: its parameters within 2 %, about half of its FLOPs a step
match=flops        all of the layers on each side: its FLOPs a step within 2 %, about twice its parameters
match=loss_tokens  as match=flops, and twice the steps: under prefix_lm only half of the text is scored

Each decoder layer has a cross-attention besides; a feed-forward of 2 dim instead of 8/3 dim pays for it. Training prints
parameters, FLOPs and scored tokens.

Other arguments: size, rope, length as in configs/causal_decoder.py; cross_positions=none|continuous; objective=any that is
defined for it (docs/objectives.md).
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg, pick
from lmarch.configs.parts.text_model import text_model

# match: the share of the layers on each side, times the steps
MATCHES = {"parameters": (0.5, 1), "flops": (1, 1), "loss_tokens": (1, 2)}


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(
        arg, size="small", rope="rope", length=256, match="flops", cross_positions="none", objective="prefix_lm"
    )
    share, passes = pick(MATCHES, given["match"], "match")
    config = text_model("encoder_decoder", given["objective"], given["size"], given["length"], given["rope"], passes)
    config.model.num_layers = int(config.model.num_layers * share)
    config.model.ffn_dim = 2 * config.model.dim
    config.model.cross_positions = given["cross_positions"]
    return config
