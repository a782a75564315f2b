"""A causal decoder on the State of the Union addresses, bytes, trained at a short length.

  python train.py --config=configs/causal_decoder.py:size=tiny --workdir=runs/tiny
  python eval.py --workdir=runs/tiny

Arguments: size=tiny|small|base, rope=any position method (docs/positions.md), length=tokens, objective=any that is
defined for it (docs/objectives.md).
"""

from ml_collections import ConfigDict

from configs.parts.text_model import text_model
from lmarch.config_files import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, size="small", rope="rope", length=256, objective="causal_lm")
    return text_model("causal_decoder", **given)
