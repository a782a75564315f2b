"""What a layer in tiles keeps for its backward pass: queries, keys, values and outputs once, whatever its branches."""

import jax
import jax.numpy as jnp
import pytest
from specs import learned_values, rope

import lmarch


@pytest.mark.parametrize("position", ["rope", "rerope", "leaky_rerope", "dual_chunk", "rope:temperature=ssmax", "fire"])
def test_no_rotated_or_scaled_copy_is_kept(position: str) -> None:
    """Besides the four there are a logarithm for each query and head, waves and coordinates: less than one more array."""
    spec = rope(head_dim=32, num_heads=8, position=position, trained_length=256, target_length=1024)
    learned = learned_values(spec)
    one = jax.ShapeDtypeStruct((4, 1024, 8, 32), jnp.float32)

    def attend(learned, *tensors):
        return lmarch.attend(*tensors, spec, implementation="tiled", learned=learned)

    kept = jax.tree.leaves(jax.eval_shape(lambda *x: jax.vjp(attend, *x)[1], learned, one, one, one))
    assert sum(x.size * x.dtype.itemsize for x in kept) < 4.5 * one.size * one.dtype.itemsize
