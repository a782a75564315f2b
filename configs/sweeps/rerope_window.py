"""ReRoPE's window × trained length, trained with it: up to L/4, L/2 and L.

lmarch sweep --config=causal_decoder:size=tiny --space=rerope_window --workdir=runs/rerope
"""

from lmarch.sweeping.space import Space, either, product, zipped

LENGTHS = (64, 128)


def get_space(arg: str = "") -> Space:
    return either(
        *(
            product(
                zipped({"model.trained_length": (length,), "data.batch_rows": (4096 // length,)}),
                zipped({"model.position": [f"rerope:window={length // part}" for part in (4, 2, 1)]}),
            )
            for length in LENGTHS
        )
    )
