"""A causal decoder that is trained with RoPE and, for the last part of its steps, without positions (DroPE).

lmarch train --config=dropped_positions:size=tiny,length=128,steps=800 --workdir=runs/dropped

The learning rate stays high until positions are gone: with what a cosine leaves of it at the end, a model does not recover.
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg
from lmarch.configs.parts.text_model import text_model


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, size="tiny", length=128, steps=800, dropped=100)
    steps, dropped = given.pop("steps"), given.pop("dropped")
    config = text_model("causal_decoder", "causal_lm", **given, rope="rope")
    config.train.update(steps=steps, warmup_steps=steps // 20, eval_steps=steps // 2, checkpoint_steps=steps // 2)
    config.train.update(schedule="wsd", decay_steps=dropped)
    config.train.position_schedule = ({"step": steps - dropped, "position": "nope"},)
    return config
