"""Position method × seed: which of them reads farther than it was trained, and how sure is that?

python sweep.py --config=configs/causal_decoder.py:size=tiny,length=64 --space=configs/sweeps/positions.py
                  --workdir=runs/positions --workers=2 --config.model.num_layers=3
                  --config.train.steps=300 --config.train.warmup_steps=20
"""

from lmarch.sweeping.space import Space, grid, product, seeds


def get_space(arg: str = "") -> Space:
    return product(grid({"model.position": ("rope", "alibi", "nope", "kerple_log")}), seeds(0, 1, 2))
