"""A stack of blocks: a pattern of one or several layers, repeated.

Layers at the same place of the pattern have equal specs; their parameters are stacked along a leading layer axis, and
one scan runs the whole pattern once per repetition.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from lmarch.attention.spec import AttentionSpec
from lmarch.config import ModelConfig
from lmarch.models.block import Block
from lmarch.models.layers import Memory, Tokens, position_parameters

# What the backward pass may keep; everything else is recomputed.
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Stack(nnx.Module):
    """num_layers blocks; on disk and in memory always [L, ...], whether scanned or unrolled."""

    def __init__(
        self,
        config: ModelConfig,
        specs: tuple[AttentionSpec, ...],
        cross: AttentionSpec | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        """`specs`: one for each layer of the pattern; `cross`: of the cross-attention that follows each, if any."""
        self.config = config
        repeats = config.num_layers // len(specs)

        def blocks(spec: AttentionSpec) -> Block:
            keys = jax.random.split(rngs.params(), repeats)
            made: Block = nnx.vmap(lambda key: Block(config, spec, cross, rngs=nnx.Rngs(key)))(keys)
            return made

        self.places = ("layers",) if len(specs) == 1 else tuple(f"layers_{place}" for place in range(len(specs)))
        self.owners: dict[str, str] = {}  # place -> the first place with the same bias, which holds what they share
        first_with: dict[Any, str] = {}
        for place, spec in zip(self.places, specs, strict=True):
            setattr(self, place, blocks(spec))
            self.owners[place] = first_with.setdefault(spec.position.bias, place)
            if self.owners[place] == place:
                setattr(self, f"shared_by_{place}", position_parameters(rngs, config, spec, shared=True))

    def __call__(self, x_BTD: jax.Array, tokens: Tokens, memory: Memory | None = None) -> jax.Array:
        split = [nnx.split(getattr(self, place)) for place in self.places]
        owned = [getattr(self, f"shared_by_{self.owners[place]}") for place in self.places]
        shared = [{name: value[...] for name, value in of_place.items()} for of_place in owned]

        def block(place: int) -> Callable[[jax.Array, nnx.State], jax.Array]:
            def apply(x_BTD: jax.Array, layer: nnx.State) -> jax.Array:
                made: jax.Array = nnx.merge(split[place][0], layer)(x_BTD, tokens, shared[place], memory)
                return made

            policy = self.config.remat
            return apply if policy == "none" else jax.checkpoint(apply, policy=REMAT_POLICIES[policy])

        def pattern(x_BTD: jax.Array, layers: list[nnx.State]) -> tuple[jax.Array, None]:
            for place, layer in enumerate(layers):
                x_BTD = block(place)(x_BTD, layer)
            return x_BTD, None

        parameters = [state for _, state in split]
        if self.config.scan_layers:
            return jax.lax.scan(pattern, x_BTD, parameters)[0]
        for index in range(self.config.num_layers // len(split)):
            x_BTD, _ = pattern(x_BTD, jax.tree.map(lambda p, i=index: p[i], parameters))
        return x_BTD
