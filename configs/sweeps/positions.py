"""Position method × seed: which of them reads farther than it was trained, and how sure is that?

lmarch sweep --config=causal_decoder:size=tiny,length=64 --space=positions
                  --workdir=runs/positions --workers=2 --config.model.num_layers=3
                  --config.train.steps=1000 --config.train.warmup_steps=50

A quarter of an hour on 2 CPU cores. Expect rope to be selected and to break beyond the trained length (1.71 bits per byte at L,
3.4 at 2 L, on an earlier split of the text), kerple_log (1.74) and alibi (1.85) to read 8 L as they read L, and nope to learn
slowly (2.5 at L).
"""

from lmarch.sweeping.space import Space, grid, product, seeds


def get_space(arg: str = "") -> Space:
    return product(grid({"model.position": ("rope", "alibi", "nope", "kerple_log")}), seeds(0, 1, 2))
