"""A stack of blocks, in groups: a few layers of a beginning, a pattern of layers that is repeated, a few layers of an end.

Layers at the same place of a pattern are equal but for their parameters, which are stacked along a leading axis; one scan runs
the whole pattern once for each repetition.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.coordinates import Coordinates
from lmarch.attention.key_value_cache import CrossCache
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.models.block import Block
from lmarch.models.layers import learned_parameters, learned_values
from lmarch.models.mixer import Added, State
from lmarch.models.text import Context, Memory

# What the backward pass may keep; everything else is recomputed. Attention names what its own backward pass needs besides its
# operands, so that no loop over tiles runs again.
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("attention"),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Layer(NamedTuple):
    """One place of a group: its name among the parameters, and what the layers there are."""

    name: str
    config: ModelConfig
    spec: AttentionSpec
    cross: AttentionSpec | None = None  # of cross-attention, if there is any


class Group(NamedTuple):
    """Layers that follow each other, as often as it says."""

    layers: tuple[Layer, ...]
    repeats: int


class Stack(nnx.Module):
    """The blocks; parameters are always [repeats, ...], whether they are scanned or unrolled."""

    def __init__(self, config: ModelConfig, groups: Sequence[Group], *, rngs: nnx.Rngs) -> None:
        self.config, self.groups = config, tuple(groups)
        owners: dict[Any, str] = {}  # a bias -> the first place that has it, which holds what its layers share
        self.owner_of: dict[str, str] = {}
        for group in self.groups:
            for layer in group.layers:
                setattr(self, layer.name, _stacked(layer, group.repeats, rngs))
                owner = self.owner_of[layer.name] = owners.setdefault(layer.spec.position.bias, layer.name)
                if owner == layer.name:
                    shared = learned_parameters(rngs, layer.spec, config.dim, shared=True)
                    setattr(self, f"shared_by_{layer.name}", shared)

    def __call__(self, x_BTD: jax.Array, context: Context, memory: Memory | None = None) -> tuple[jax.Array, Added]:
        """Return the states after all blocks, and what they add to the loss."""
        added: Added = 0.0
        for group in self.groups:
            x_BTD, of_group = self._run(group, x_BTD, context, memory)
            added = added + of_group
        return x_BTD, added

    def _run(
        self, group: Group, x_BTD: jax.Array, context: Context, memory: Memory | None
    ) -> tuple[jax.Array, jax.Array]:
        definition, parameters = nnx.split(self._blocks(group))
        shared = [self._shared(layer) for layer in group.layers]
        scanned = self.config.scan_layers and group.repeats > 1

        def block(number: int, x_BTD: jax.Array, parameters: nnx.State) -> tuple[jax.Array, Added]:
            mixed = nnx.merge(definition, parameters)[number](x_BTD, context, shared[number], memory)
            return mixed.x_BTD, mixed.added

        if self.config.remat != "none":
            # Inside a scan XLA cannot merge what is computed again with what was computed before.
            policy = REMAT_POLICIES[self.config.remat]
            block = jax.checkpoint(block, static_argnums=0, policy=policy, prevent_cse=not scanned)

        def once(x_BTD: jax.Array, parameters: nnx.State) -> tuple[jax.Array, jax.Array]:
            added = jnp.zeros((), jnp.float32)
            for number in range(len(shared)):
                x_BTD, of_block = block(number, x_BTD, parameters)
                added = added + of_block
            return x_BTD, added

        if scanned:
            x_BTD, of_each = jax.lax.scan(once, x_BTD, parameters)
            return x_BTD, of_each.sum()
        added = jnp.zeros((), jnp.float32)
        for repeat in range(group.repeats):
            x_BTD, of_repeat = once(x_BTD, _of_layer(parameters, repeat))
            added = added + of_repeat
        return x_BTD, added

    def each_block(self) -> Iterator[tuple[Block, Mapping[str, jax.Array]]]:
        """Yield the blocks in order, each with parameters of its own, and what it shares with others."""
        for group in self.groups:
            definition, parameters = nnx.split(self._blocks(group))
            for repeat in range(group.repeats):
                blocks = nnx.merge(definition, _of_layer(parameters, repeat))
                yield from zip(blocks, (self._shared(layer) for layer in group.layers), strict=True)

    def empty_states(self, rows: int, *, longest: int | None, chunk: int, placed: bool) -> tuple[State, ...]:
        """Return what each layer remembers before anything is read."""
        options = {"longest": longest, "chunk": chunk, "placed": placed}
        return tuple(
            block.mixer.empty_state(rows, **options)
            for group in self.groups
            for _ in range(group.repeats)
            for block in self._blocks(group)
        )

    def step(
        self, x_BTD: jax.Array, context: Context, states: Sequence[State], memories: Sequence[CrossCache | None]
    ) -> tuple[jax.Array, tuple[State, ...]]:
        """Do the same for tokens that follow those that the states remember. Layers are unrolled: each has its own arrays."""
        after = []
        for (block, shared), state, memory in zip(self.each_block(), states, memories, strict=True):
            mixed = block(x_BTD, context, shared, memory, state)
            x_BTD = mixed.x_BTD
            after.append(mixed.state)
        return x_BTD, tuple(after)

    def weights(self, x_BTD: jax.Array, context: Context, look: Callable[[Weights], Any]) -> list[Any]:
        """Return what `look` makes of the attention weights of each layer that attends."""
        seen = []
        for block, shared in self.each_block():
            if hasattr(block.mixer, "weights"):
                seen.append(look(block.weights(x_BTD, context, shared)))
            x_BTD = block(x_BTD, context, shared).x_BTD
        return seen

    def cross_caches(self, states_BSD: jax.Array, at: Coordinates, *, continuous: bool) -> tuple[CrossCache, ...]:
        """Return what each layer's cross-attention reads of an encoder's output, once for all steps."""
        across = [block.cross_attention for block, _ in self.each_block()]
        of = functools.partial(CrossCache.of, at=at, continuous=continuous)
        return tuple(of(*layer.keys_and_values(states_BSD), layer.spec) for layer in across)

    def _blocks(self, group: Group) -> list[Block]:
        return [getattr(self, layer.name) for layer in group.layers]

    def _shared(self, layer: Layer) -> dict[str, jax.Array]:
        return learned_values(getattr(self, f"shared_by_{self.owner_of[layer.name]}"))


def _stacked(layer: Layer, repeats: int, rngs: nnx.Rngs) -> Block:
    keys = jax.random.split(rngs.params(), repeats)
    block: Block = nnx.vmap(lambda key: Block(layer.config, layer.spec, layer.cross, rngs=nnx.Rngs(key)))(keys)
    return block


def _of_layer(parameters: nnx.State, index: int) -> nnx.State:
    """Return one layer's parameters, of arrays stacked along their first axis or already apart (`unstacked`)."""
    layer: nnx.State = jax.tree.map(lambda stacked: stacked[index], parameters, is_leaf=lambda x: isinstance(x, tuple))
    return layer


def unstacked(params: dict[str, Any]) -> dict[str, Any]:
    """Return a stack's parameters with each layer's apart: a slice of a stacked array is a copy at every step."""
    return {
        place: values if place.startswith("shared_by") else jax.tree.map(tuple, values)
        for place, values in params.items()
    }
