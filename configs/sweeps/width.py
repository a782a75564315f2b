"""Learning rate × width: is the rate that is best for a narrow model the best one for a wide model?

lmarch sweep --config=causal_decoder:size=tiny,length=64 --space=width:base=128
                  --workdir=runs/width --workers=2 --suite=none --config.model.num_layers=2
                  --config.model.init_std=0.1 --config.data.batch_rows=16 --config.train.steps=200

Heads have 32 dimensions at every width. With `base=0` rates are those of the usual parametrisation, with `base=128` they are
scaled from that width (`model.base_dim`, muP: Yang et al. 2022, arXiv 2203.03466). The picture: benchmarks/width_transfer.py.

Eight minutes each on 2 CPU cores. Expect the best rate to fall from 0.008 (64 wide) to 0.001 (512) without a base, and to be
0.004 at every width with it, the widest model then at 2.35 bits per byte instead of 2.50.
"""

from lmarch.config_files import parse_arg
from lmarch.sweeping.space import Space, grid, product, zipped

WIDTHS = (64, 128, 256, 512)


def get_space(arg: str = "") -> Space:
    base = parse_arg(arg, base=128)["base"]
    rates = grid({"train.learning_rate": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)})
    widths = zipped({"model.dim": WIDTHS, "model.num_heads": [width // 32 for width in WIDTHS]})
    return product(rates, widths, grid({"model.base_dim": (base or None,)}))
