"""The demo: 0.8M parameters on the State of the Union addresses, 128 bytes at a time, then read at up to 1,024.

  make demo        (lmarch train --config=demo --workdir=runs/demo, then lmarch eval --workdir=runs/demo)

About 6 minutes on 2 CPU cores. Eight ways to read the same weights stand side by side: RoPE as it is, interpolated, with a
changed base, YaRN, ReRoPE, Leaky ReRoPE, Self-Extend, and in a streaming window. Expect 1.7 bits per byte on the test addresses
at 128 bytes; plain RoPE needs more than 3 from 256 bytes on, and what keeps every distance within the trained ones stays flat.
"""

from ml_collections import ConfigDict

from lmarch.config_files import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    parse_arg(arg)  # takes none
    config = ConfigDict()
    config.data = dict(corpus="sotu", tokenizer="bytes", batch_rows=32)
    config.model = dict(architecture="causal_decoder", trained_length=128, num_layers=4, dim=128, num_heads=4)
    config.train = dict(steps=700, warmup_steps=40, eval_steps=100, checkpoint_steps=100, learning_rate=3e-3)
    config.eval = dict(
        suite="cpu",
        parts=("paired", "far_copies", "by_position"),
        lengths=(64, 128, 256, 512, 1024),
        methods=(
            "rope",
            "linear",
            "ntk",
            "yarn",
            "rerope:window=64",
            "leaky_rerope:window=64",
            "self_extend",
            "rope in streaming",
        ),
    )
    return config
