"""The public function, called without `jax.jit` around it."""

import pytest
from compilations import counted
from specs import inputs, rope

import lmarch


@pytest.mark.parametrize("implementation", ["dense", "tiled", "fused"])
def test_it_is_one_program_and_a_second_call_compiles_nothing(implementation: str) -> None:
    """An equal spec that is another object is the same layer."""
    first_tensors, second_tensors = (inputs(40, seed=seed) for seed in (0, 1))
    with counted() as first:
        lmarch.attend(*first_tensors, rope(position="rerope:window=7"), implementation=implementation)
    with counted() as second:
        lmarch.attend(*second_tensors, rope(position="rerope:window=7"), implementation=implementation)
    assert len(first) == 1
    assert second == []
