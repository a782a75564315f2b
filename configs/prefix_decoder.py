"""A prefix decoder (GLM, ChatGLM): bidirectional over a prefix, causal after it. Sizes of configs/causal_decoder.py.

  lmarch train --config=prefix_decoder:size=tiny --workdir=runs/prefix
  lmarch eval --workdir=runs/prefix

It has the parameters of the causal decoder of its size and, but for attention inside the prefix, its FLOPs; only what
follows the prefix is scored, half of the text. match=loss_tokens trains twice as long, for
as many scored tokens under prefix_lm.

Arguments: size, rope, length as there; match=flops|loss_tokens; objective=any that is defined for it
(docs/objectives.md).
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg, pick
from lmarch.configs.parts.text_model import text_model

PASSES = {"flops": 1, "loss_tokens": 2}


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, size="small", rope="rope", length=256, match="flops", objective="prefix_lm")
    passes = pick(PASSES, given["match"], "match")
    return text_model("prefix_decoder", given["objective"], given["size"], given["length"], given["rope"], passes)
