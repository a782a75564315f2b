"""A causal decoder on the State of the Union addresses, bytes, trained at a short length.

  lmarch train --config=causal_decoder:size=tiny --workdir=runs/tiny
  lmarch eval --workdir=runs/tiny

Arguments: size=tiny|small|base, rope=any position method (docs/positions.md), length=tokens, objective=any that is
defined for it (docs/objectives.md).
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg
from lmarch.configs.parts.text_model import text_model


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, size="small", rope="rope", length=256, objective="causal_lm")
    return text_model("causal_decoder", **given)
