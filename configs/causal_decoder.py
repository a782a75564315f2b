"""A causal decoder on the State of the Union addresses, bytes, trained at a short length.

  python train.py --config=configs/causal_decoder.py:size=tiny --workdir=runs/tiny
  python eval.py --workdir=runs/tiny

Arguments: size=tiny|small|base, rope=any position method (docs/positions.md), length=tokens.
"""

from ml_collections import ConfigDict

from lmarch.config import parse_arg, pick
from lmarch.registry import parse_variant

# size: layers, width, heads, rows a step, steps, learning rate
SIZES = {
    "tiny": dict(num_layers=4, dim=128, num_heads=4, batch_rows=32, steps=800, learning_rate=3e-3),
    "small": dict(num_layers=6, dim=384, num_heads=6, batch_rows=64, steps=4_000, learning_rate=2e-3),
    "base": dict(num_layers=12, dim=768, num_heads=12, batch_rows=256, steps=20_000, learning_rate=6e-4),
}


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, size="small", rope="rope", length=256)
    size = pick(SIZES, given["size"], "size")
    config = ConfigDict()
    config.data = dict(corpus="sotu", tokenizer="bytes", batch_rows=size["batch_rows"])
    config.model = dict(
        architecture="causal_decoder",
        trained_length=given["length"],
        position=dict(parse_variant(given["rope"])),
        num_layers=size["num_layers"],
        dim=size["dim"],
        num_heads=size["num_heads"],
    )
    config.train = dict(
        steps=size["steps"],
        warmup_steps=size["steps"] // 20,
        eval_steps=size["steps"] // 8,
        checkpoint_steps=size["steps"] // 8,
        learning_rate=size["learning_rate"],
    )
    return config
