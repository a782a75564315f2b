"""A causal decoder that is trained with RoPE and, for the last eighth of its steps, without positions (DroPE).

python train.py --config=configs/dropped_positions.py:size=tiny,length=128,steps=800 --workdir=runs/dropped
"""

from ml_collections import ConfigDict

from configs.parts.text_model import text_model
from lmarch.config_files import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, size="tiny", length=128, steps=800)
    steps = given.pop("steps")
    config = text_model("causal_decoder", "causal_lm", **given, rope="rope")
    config.train.update(steps=steps, warmup_steps=steps // 20, eval_steps=steps // 2, checkpoint_steps=steps // 2)
    config.train.position_schedule = ({"step": steps * 7 // 8, "position": "nope"},)
    return config
