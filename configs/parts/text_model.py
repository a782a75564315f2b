"""What configs of the three architectures share: sizes, text and schedule. An architecture's file says what differs."""

from typing import Any

from ml_collections import ConfigDict

from lmarch.config_files import pick
from lmarch.registry import parse_variant

# size: layers, width, heads, rows a step, steps, learning rate
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(num_layers=4, dim=128, num_heads=4, batch_rows=32, steps=800, learning_rate=3e-3),
    "small": dict(num_layers=6, dim=384, num_heads=6, batch_rows=64, steps=4_000, learning_rate=2e-3),
    "base": dict(num_layers=12, dim=768, num_heads=12, batch_rows=256, steps=20_000, learning_rate=6e-4),
}


def text_model(architecture: str, objective: str, size: str, length: int, rope: str, passes: int = 1) -> ConfigDict:
    """A model of this size on the State of the Union addresses. `passes`: that many times the steps of the size."""
    chosen = pick(SIZES, size, "size")
    steps = chosen["steps"] * passes
    config = ConfigDict()
    asked = dict(parse_variant(objective))
    config.data = dict(corpus="sotu", tokenizer="bytes", batch_rows=chosen["batch_rows"], objective=asked)
    config.model = dict(
        architecture=architecture,
        trained_length=length,
        position=dict(parse_variant(rope)),
        num_layers=chosen["num_layers"],
        dim=chosen["dim"],
        num_heads=chosen["num_heads"],
    )
    if asked["name"] == "blank_infilling":
        config.model.block_positions = "rotary"
    config.train = dict(
        steps=steps,
        warmup_steps=chosen["steps"] // 20,
        eval_steps=steps // 8,
        checkpoint_steps=steps // 8,
        learning_rate=chosen["learning_rate"],
    )
    return config


# What experiments on text read, each on its own, and the learning rates of which every model is trained at its best.
CORPORA = ("sotu", "python-stdlib")
RATES = (7.5e-4, 1.5e-3, 3e-3, 6e-3)

# Overrides of `tiny` for experiments that train many models: two thirds of its FLOPs.
SMALLER = {
    "model.num_layers": "3",
    "train.steps": "1000",
    "train.warmup_steps": "50",
    "train.eval_steps": "500",
    "train.checkpoint_steps": "500",
}
