"""A small decoder trained on problems of one synthetic task, of up to a trained length, and asked about longer ones.

  lmarch train --config=task:task=copy,position=alibi --workdir=runs/copy
  lmarch eval --workdir=runs/copy --parts=problems --lengths=34,38,42,68

About a minute and a half on 2 CPU cores. Expect all copies of up to 16 symbols (34 tokens) to be right, nine in ten of those of
18 (38 tokens), and none of 33 (68 tokens); with position=rope one in ten of 18.
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg
from lmarch.registry import format_variant, parse_variant


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, task="copy", position="rope", length=34, layers=4, rows=32, steps=2000, learning_rate=3e-3)
    steps = given["steps"]
    config = ConfigDict()
    config.data = dict(batch_rows=given["rows"], tasks=({"task": format_variant(given["task"]), "share": 1.0},))
    position = dict(parse_variant(given["position"]))
    config.model = dict(
        trained_length=given["length"], num_layers=given["layers"], dim=64, num_heads=4, position=position
    )
    config.train = dict(
        steps=steps,
        warmup_steps=steps // 20,
        eval_steps=steps // 4,
        checkpoint_steps=steps // 4,
        learning_rate=given["learning_rate"],
    )
    config.eval = dict(parts=("problems",))
    return config
