"""Learning rate × weight decay: the first thing to tune in a new setting.

lmarch sweep --config=causal_decoder:size=tiny,length=64 --space=learning_rate
                  --workdir=runs/lr --workers=2
"""

from lmarch.sweeping.space import Space, grid


def get_space(arg: str = "") -> Space:
    return grid({"train.learning_rate": (1e-3, 3e-3, 1e-2), "train.optimizer.weight_decay": (0.0, 0.1, 0.3)})
