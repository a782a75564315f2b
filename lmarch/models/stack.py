"""A stack of blocks: a pattern of one or several layers, repeated.

Layers at the same place of the pattern have equal specs; their parameters are stacked along a leading layer axis, and
one scan runs the whole pattern once per repetition.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from lmarch.attention.attend import keep_keys
from lmarch.attention.cache import Past, Recalled, write_places
from lmarch.attention.operands import heads_first
from lmarch.attention.places import Places
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.models.block import Block
from lmarch.models.cache import Cache, Encoded
from lmarch.models.layers import Memory, Tokens, position_parameters, position_values

# What the backward pass may keep; everything else is recomputed.
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


Apply = Callable[..., jax.Array]  # a layer's parameters, then what a Block takes


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
        self.config, self.cross = config, cross
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
                setattr(self, f"shared_by_{place}", position_parameters(rngs, spec, shared=True))

    def _blocks(self) -> tuple[list[Apply], list[nnx.State]]:
        """For each place of the pattern what a layer does, given its parameters, and those of all its layers."""
        split = [nnx.split(getattr(self, place)) for place in self.places]
        owned = [getattr(self, f"shared_by_{self.owners[place]}") for place in self.places]
        shared = [position_values(of_place) for of_place in owned]

        def block(place: int) -> Apply:
            def apply(
                layer: nnx.State,
                x_BTD: jax.Array,
                tokens: Tokens,
                memory: Memory | Recalled | None,
                past: Past | None = None,
            ) -> jax.Array:
                made: jax.Array = nnx.merge(split[place][0], layer)(x_BTD, tokens, shared[place], memory, past)
                return made

            return apply

        return [block(place) for place in range(len(split))], [state for _, state in split]

    def __call__(self, x_BTD: jax.Array, tokens: Tokens, memory: Memory | None = None) -> jax.Array:
        blocks, parameters = self._blocks()

        def pattern(x_BTD: jax.Array, layers: list[nnx.State]) -> tuple[jax.Array, None]:
            for block, layer in zip(blocks, layers, strict=True):

                def apply(layer: nnx.State, x_BTD: jax.Array, block: Apply = block) -> jax.Array:
                    return block(layer, x_BTD, tokens, memory)

                policy = self.config.remat
                kept = apply if policy == "none" else jax.checkpoint(apply, policy=REMAT_POLICIES[policy])
                x_BTD = kept(layer, x_BTD)
            return x_BTD, None

        if self.config.scan_layers:
            return jax.lax.scan(pattern, x_BTD, parameters)[0]
        for index in range(self.config.num_layers // len(blocks)):
            x_BTD, _ = pattern(x_BTD, [_layer(state, index) for state in parameters])
        return x_BTD

    def _each_layer(self) -> Iterator[tuple[Apply, nnx.State]]:
        """In order: what it does, and its parameters."""
        blocks, parameters = self._blocks()
        for index in range(self.config.num_layers):
            repeat, place = divmod(index, len(blocks))
            yield blocks[place], _layer(parameters[place], repeat)

    def step(self, x_BTD: jax.Array, tokens: Tokens, cache: Cache, at: Places) -> tuple[jax.Array, Cache]:
        """The same for tokens that follow those in the cache. Layers are unrolled: each has arrays of its own."""
        places = {slots: write_places(there, at, slots) for slots, there in cache.places.items()}
        layers = []
        for (block, layer), cached, encoded in zip(self._each_layer(), cache.layers, cache.encoded, strict=True):
            past = Past(cached, at, places[cached.slots], cache.prefix_B1, cache.placed)
            x_BTD = block(layer, x_BTD, tokens, encoded and encoded.recalled(at), past)
            layers.append(past.layer)
        return x_BTD, dataclasses.replace(cache, layers=tuple(layers), places=places)

    def weights(self, x_BTD: jax.Array, look: Callable[[Weights], Any]) -> list[Any]:
        """What `look` makes of each layer's attention weights, for texts that start at position 0."""
        blocks, parameters = self._blocks()
        shared = [position_values(getattr(self, f"shared_by_{self.owners[place]}")) for place in self.places]

        def pattern(x_BTD: jax.Array, layers: list[nnx.State]) -> tuple[jax.Array, list[Any]]:
            seen = []
            for place, (apply, layer) in enumerate(zip(blocks, layers, strict=True)):
                block = nnx.merge(nnx.split(getattr(self, self.places[place]))[0], layer)
                seen.append(look(block.weights(x_BTD, shared[place])))
                x_BTD = apply(layer, x_BTD, Tokens(), None)
            return x_BTD, seen

        _, of_places = jax.lax.scan(pattern, x_BTD, parameters)
        repeats = self.config.num_layers // len(blocks)
        return [jax.tree.map(lambda stacked, n=n: stacked[n], seen) for n in range(repeats) for seen in of_places]

    def encoded(self, states_BSD: jax.Array, at: Places, continuous: bool) -> tuple[Encoded, ...]:
        """What each layer's cross-attention reads of an encoder's output, once for all steps."""
        assert self.cross is not None
        made = []
        for index, (_, layer) in enumerate(self._each_layer()):
            of_place = getattr(self, self.places[index % len(self.places)]).cross_attention
            attention = nnx.merge(nnx.split(of_place)[0], layer["cross_attention"])
            k_BSGK, v_BSGK = attention.keys_and_values(states_BSD)
            keys = keep_keys(heads_first(k_BSGK), self.cross, at, placed=continuous)
            made.append(Encoded(keys, heads_first(v_BSGK), at, continuous))
        return tuple(made)


def _layer(state: nnx.State, index: int) -> nnx.State:
    """One layer's parameters, of arrays stacked along their first axis or already apart (`unstacked`)."""
    layer: nnx.State = jax.tree.map(lambda stacked: stacked[index], state, is_leaf=lambda x: isinstance(x, tuple))
    return layer


def unstacked(params: dict[str, Any]) -> dict[str, Any]:
    """A stack's parameters with each layer's apart: a slice of a stacked array is a copy at every step."""
    return {
        place: values if place.startswith("shared_by") else jax.tree.map(tuple, values)
        for place, values in params.items()
    }
