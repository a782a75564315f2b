"""float32 means float32 in every product of attention and of its gradient, on devices whose default is less."""

import jax
import jax.numpy as jnp
import pytest
from equations import equations
from specs import learned_values, rope

import lmarch

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
LENGTH = 40

# Everything that multiplies: (implementation, layer).
LAYERS = {
    "dense, two branches": ("dense", {"position": "rerope:window=7"}),
    "tiled": ("tiled", {}),
    "tiled, two branches": ("tiled", {"position": "rerope:window=7"}),
    "tiled, a bias that is a network": ("tiled", {"position": "fire:threshold=8"}),
    "tiled, a bias that is a table": ("tiled", {"position": "t5_bias:num_buckets=8,max_distance=20"}),
    "tiled, soft-cap and temperature": ("tiled", {"position": "rope:temperature=ssmax", "softcap": 5.0}),
    "fused": ("fused", {}),
    "fused, two calls": ("fused", {"position": "rerope:window=7"}),
    "stepwise": ("dense", {"position": "dynamic_ntk:form=stepwise"}),
    "knn": ("tiled", {"selection": "knn:local=8,top=3"}),
    "infllm": ("tiled", {"selection": "infllm:local=8,sinks=2,block=4,top=2,representatives=2"}),
    "quest": ("tiled", {"selection": "quest:page=4,budget=12,prefill=selected"}),
    "moba": ("tiled", {"selection": "moba:block=8,top=2"}),
    "landmark": ("tiled", {"selection": "landmark:block=4"}),
    "landmark, retrieving": ("tiled", {"selection": "landmark:block=4,top=1,local=1"}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_float32_means_float32_in_every_product(name: str) -> None:
    """The caller's setting holds where a function is called; its gradient may be traced with it or after it is gone."""
    implementation, layer = LAYERS[name]
    spec = rope(**layer)
    learned = learned_values(spec)
    tensors = [jax.ShapeDtypeStruct((2, LENGTH, 4, 16), jnp.float32)] * 3

    def loss(tensors, learned):
        with jax.default_matmul_precision("float32"):
            return lmarch.attend(*tensors, spec, implementation=implementation, learned=learned).sum()

    for function in (loss, jax.jit(loss)):
        gradient = jax.make_jaxpr(jax.grad(function, (0, 1)))(tensors, learned)
        products = [equation for equation in equations(gradient.jaxpr) if "dot" in equation.primitive.name]
        assert len(products) > 4
        assert {product.params["precision"] for product in products} == {HIGHEST}
