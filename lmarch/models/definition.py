"""A model as pure functions over a plain nested dict of parameters. NNX defines it; nobody above sees NNX."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
from flax import nnx

from lmarch.attention.spec import AttentionSpec, attention_spec
from lmarch.config import ModelConfig
from lmarch.errors import UserError
from lmarch.models.causal_decoder import CausalDecoder
from lmarch.registry import parse_variant, variant_name

ARCHITECTURES = {"causal_decoder": CausalDecoder}
Parameters = dict[str, Any]


def layer_specs(config: ModelConfig) -> tuple[AttentionSpec, ...]:
    """The AttentionSpec of each layer of the repeated pattern; raises UserError for an impossible combination."""
    specs = tuple(
        attention_spec(
            architecture=config.architecture,
            position=layer["position"],
            window=layer["window"],
            head_dim=config.head_size,
            num_heads=config.num_heads,
            trained_length=config.trained_length,
            target_length=config.target_length,
            rope_base=config.rope_base,
            sink=config.sink,
        )
        for layer in config.pattern
    )
    if len({spec.position.embedding for spec in specs}) > 1:
        methods = ", ".join(spec.position.method for spec in specs)
        raise UserError(
            f"config.model.layers mix {methods}: positions added to embeddings cannot differ between layers"
        )
    return specs


@dataclasses.dataclass(frozen=True)
class ModelDefinition:
    """`init` makes the parameters, `apply` runs them, `shapes` and `axes` describe them without a device."""

    config: ModelConfig
    vocab_size: int

    @functools.cached_property
    def specs(self) -> tuple[AttentionSpec, ...]:
        """One for each layer of the repeated pattern."""
        return layer_specs(self.config)

    @property
    def label(self) -> str:
        """`method` without its parameters: `3 x rope (sliding) + 1 x nope`."""
        return self._named(
            [
                variant_name(s.position.method) + ("" if s.window == "full" else f" ({variant_name(s.window)})")
                for s in self.specs
            ]
        )

    @property
    def method(self) -> str:
        """The position methods of the pattern, in one line, with the windows that narrow anything."""
        return self._named([s.position.method + ("" if s.window == "full" else f" in {s.window}") for s in self.specs])

    @staticmethod
    def _named(names: list[str]) -> str:
        runs = [(name, len(list(group))) for name, group in itertools.groupby(names)]
        return " + ".join(name if len(names) == 1 else f"{count} x {name}" for name, count in runs)

    @property
    def common_position(self) -> str | None:
        """The method of the layers that do not name their own, with every derived parameter; none: all do."""
        layers = zip(self.config.layers or ({},), self.specs, strict=True)
        return next((spec.position.method for layer, spec in layers if "position" not in layer), None)

    def with_own_positions_fixed(self) -> ModelConfig:
        """The config whose layers that name their own position name it with every derived parameter."""
        layers = zip(self.config.layers, self.specs, strict=False)
        fixed = (
            {**layer, "position": dict(parse_variant(spec.position.method))} if "position" in layer else layer
            for layer, spec in layers
        )
        return dataclasses.replace(self.config, layers=tuple(fixed))

    @property
    def longest(self) -> int | None:
        """The longest text that every layer can compute; none: any."""
        return min((s.position.longest for s in self.specs if s.position.longest is not None), default=None)

    def out_of_design(self, length: int, seen: int | None = None) -> str | None:
        """Why a result at `length` lies outside what some layer is meant for, or None. `seen`: see AttentionSpec."""
        reasons = dict.fromkeys(spec.out_of_design(length, seen) for spec in self.specs)
        return "; ".join(reason for reason in reasons if reason) or None

    @functools.cached_property
    def _abstract(self) -> tuple[nnx.GraphDef, nnx.State]:
        return nnx.split(nnx.eval_shape(self._module, jax.random.key(0)))

    def _module(self, key: jax.Array) -> nnx.Module:
        build = ARCHITECTURES[self.config.architecture]
        return build(self.config, self.vocab_size, self.specs, rngs=nnx.Rngs(params=key))

    def init(self, key: jax.Array) -> Parameters:
        return jax.jit(lambda key: nnx.to_pure_dict(nnx.state(self._module(key))))(key)

    @property
    def shapes(self) -> Parameters:
        """The parameters' ShapeDtypeStructs."""
        return nnx.to_pure_dict(self._abstract[1])

    @property
    def axes(self) -> Parameters:
        """The parameters' logical axis names, as tuples; stacked layers carry `layers` in front."""

        def names(variable: nnx.Param) -> tuple[str, ...]:
            axes = variable.get_metadata()["axes"]
            return ("layers",) * (len(variable.shape) - len(axes)) + axes

        return jax.tree.map(names, self._abstract[1], is_leaf=lambda x: isinstance(x, nnx.Variable)).to_pure_dict()

    def apply(
        self,
        params: Parameters,
        tokens_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        last: int | None = None,
    ) -> jax.Array:
        """Logits [B, T, V], float32; of the `last` positions only, if given."""
        # float32 means float32: on recent GPUs and TPUs the default rounds float32 matmul inputs to 10 or 8 bits.
        precision = "float32" if self.config.compute_dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            module = nnx.merge(self._abstract[0], params)
            return module(tokens_BT, positions_BT, segment_ids_BT, last)

    @property
    def num_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes))

    def flops_per_token(self, length: int) -> float:
        """Training FLOPs per token: 6 per matmul parameter, plus 6 T H K a layer for causal attention (half of T^2).

        Embedding look-ups cost nothing; the unembedding counts, tied or not. What a window saves is not taken off.
        """
        config = self.config
        matmul = self.num_parameters - (0 if config.tied_embeddings else self.vocab_size * config.dim)
        return 6 * matmul + 6 * config.num_layers * length * config.num_heads * config.head_size
