"""Pairs that nobody sees may overflow: a key far after its query, which xPos lets grow instead of fade."""

import jax
import jax.numpy as jnp
import numpy as np
from specs import rope

import lmarch

LENGTH = 2000  # e^160 for the first query and the last key


def test_what_nobody_sees_makes_no_gradient_under_a_soft_cap_nan() -> None:
    spec = rope(num_heads=1, position="xpos:scale_base=16", softcap=4.0, trained_length=LENGTH, target_length=LENGTH)
    rng = np.random.default_rng(0)
    tensors = tuple(jnp.asarray(rng.standard_normal((1, LENGTH, 1, 16)), jnp.float32) for _ in range(3))

    def value_and_gradients(implementation: str):
        def loss(tensors):
            out = lmarch.attend(*tensors, spec, implementation=implementation)
            return jnp.sin(out).sum(), out

        return jax.grad(loss, has_aux=True)(tensors)

    in_one_product, in_tiles = (value_and_gradients(name) for name in ("dense", "tiled"))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(in_one_product))
    for ours, oracle in zip(*map(jax.tree.leaves, (in_tiles, in_one_product)), strict=True):
        np.testing.assert_allclose(ours, oracle, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(oracle).max()))
