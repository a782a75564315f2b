"""RoPE's base × trained length, with as many tokens a step at each (Xiong et al. 2023; Men et al. 2024, arXiv 2405.14591).

lmarch sweep --config=causal_decoder:size=tiny --space=rope_base --workdir=runs/base
"""

from lmarch.sweeping.space import Space, grid, product, zipped


def get_space(arg: str = "") -> Space:
    lengths = zipped({"model.trained_length": (64, 128), "data.batch_rows": (64, 32)})
    return product(grid({"model.rope_base": (100.0, 1_000.0, 10_000.0, 100_000.0)}), lengths)
