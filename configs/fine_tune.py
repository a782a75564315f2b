"""A causal decoder of `causal_decoder.py`, fine-tuned at four times its trained length.

  lmarch train --config=fine_tune:position=linear,start_from=runs/base --workdir=runs/longer

The base is a run of `causal_decoder.py` with the same size and length. About two minutes on 2 CPU cores at `tiny` size.
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg
from lmarch.configs.parts.text_model import text_model


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, size="tiny", length=128, position="linear", steps=60, rows=8, start_from="runs/base")
    config = text_model("causal_decoder", "causal_lm", given["size"], given["length"], given["position"])
    longer, steps = 4 * given["length"], given["steps"]
    config.model.target_length = longer
    config.data.update(row_length=longer, batch_rows=given["rows"])
    config.train = dict(
        start_from=given["start_from"],
        steps=steps,
        warmup_steps=steps // 10,
        learning_rate=1e-3,
        eval_rows=32,
        schedule="constant",
    )
    return config
