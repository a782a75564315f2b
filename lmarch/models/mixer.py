"""What a layer mixes tokens with: the protocol that a stack knows, and the registry of those that implement it.

To add one, write a module with these methods in a file of its own, register the frozen dataclass of its parameters here with
`MIXERS.register`, and import the file in `models/__init__.py`. A config names it: `--config.model.mixer=NAME:PARAMETER=VALUE`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
from flax import nnx

from lmarch.attention.spec import AttentionSpec
from lmarch.branches import MaskKind
from lmarch.config import ModelConfig
from lmarch.models.text import Context
from lmarch.registry import Registry

State = Any  # a pytree of arrays: what a mixer remembers of texts that are read piece by piece
Added = jax.Array | float  # a number that a layer adds to the loss


class Mixed(NamedTuple):
    """What a mixer makes of the states of tokens."""

    x_BTD: jax.Array
    added: Added = 0.0  # what it adds to the loss
    state: State = None  # with these tokens, where one was given


class Mixer(Protocol):
    """A module from the states of tokens to what is added to them; position t must not depend on tokens that it may not see.

    Tokens of a row that are padding (`context.at.indices` is PADDING), or of another document (`context.at.documents`), must
    not change what others get.
    """

    def __call__(
        self, x_BTD: jax.Array, context: Context, shared: Mapping[str, jax.Array], state: State = None
    ) -> Mixed:
        """Mix whole texts; or, given a state, tokens that follow those that it remembers.

        Args:
          shared: what layers with the same position method learn together.
        """
        ...

    def empty_state(self, rows: int, *, longest: int | None, chunk: int, placed: bool) -> State:
        """Return the state before anything is read. It uses no parameters.

        Args:
          longest: tokens a text may get to have; None: any number.
          chunk: how many tokens are added at once at most.
          placed: whether positions will be given.
        """
        ...


class MixerMethod(Protocol):
    """A frozen dataclass of parameters that makes a mixer for a layer."""

    def resolve(self, mask_kind: MaskKind) -> "MixerMethod":
        """Return itself; raise UserError where keys after their query are seen as it cannot: see `MaskKind`."""
        ...

    def module(self, config: ModelConfig, spec: AttentionSpec, residual_scale: float, *, rngs: nnx.Rngs) -> Any:
        """Return the `Mixer`.

        Args:
          config: of the layer.
          spec: the attention that the config describes, for mixers that attend.
          residual_scale: what matrices that write to the residual stream are scaled by at the start.
        """
        ...

    def flops(self, config: ModelConfig, tokens: int, prefix: int) -> float:
        """Return the FLOPs to train one layer on one text, besides 6 for each parameter and token."""
        ...


MIXERS: Registry[MixerMethod] = Registry("mixer")
