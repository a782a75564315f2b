"""A stack of equal blocks whose parameters are stacked along a leading layer axis, run by one scan."""

from collections.abc import Callable

import jax
from flax import nnx

from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig
from lmarch.models.layers import Block

# What the backward pass may keep; everything else is recomputed.
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Stack(nnx.Module):
    """num_layers blocks; on disk and in memory always [L, ...], whether scanned or unrolled."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.layers = nnx.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)

    def __call__(
        self,
        x_BTD: jax.Array,
        specs: tuple[AttentionSpec, ...],
        positions_BT: jax.Array | None,
        segment_ids_BT: jax.Array | None,
    ) -> jax.Array:
        """`specs`: one per layer. Layers share one scan where their specs are all equal."""
        definition, parameters = nnx.split(self.layers)

        def block(spec: AttentionSpec) -> Callable[[jax.Array, nnx.State], jax.Array]:
            def apply(x_BTD: jax.Array, layer: nnx.State) -> jax.Array:
                return nnx.merge(definition, layer)(x_BTD, spec, positions_BT, segment_ids_BT)

            policy = self.config.remat
            return apply if policy == "none" else jax.checkpoint(apply, policy=REMAT_POLICIES[policy])

        if self.config.scan_layers and len(set(specs)) == 1:
            apply = block(specs[0])
            return jax.lax.scan(lambda x, layer: (apply(x, layer), None), x_BTD, parameters)[0]
        for index, spec in enumerate(specs):
            x_BTD = block(spec)(x_BTD, jax.tree.map(lambda p, i=index: p[i], parameters))
        return x_BTD
