"""A model as pure functions over a plain nested dict of parameters. NNX defines it; nobody above sees NNX."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.key_value_cache import CrossCache
from lmarch.attention.spec import AttentionSpec
from lmarch.attention.weights import Weights
from lmarch.config import ModelConfig
from lmarch.errors import UserError
from lmarch.models import naming
from lmarch.models.cache import Cache
from lmarch.models.decoder import Decoder
from lmarch.models.encoder_decoder import EncoderDecoder
from lmarch.models.flops import training_flops
from lmarch.models.language_model import Outputs, Sites
from lmarch.models.sites import make_sites
from lmarch.models.stack import unstacked
from lmarch.models.text import Text

MODULES = {"causal_decoder": Decoder, "prefix_decoder": Decoder, "encoder_decoder": EncoderDecoder}
Parameters = dict[str, Any]


def _narrowed(leaf: jax.Array, dtype: Any) -> jax.Array:
    """Return `leaf` rounded to `dtype`, or as it is if that would not make it smaller."""
    return leaf.astype(dtype) if leaf.dtype.itemsize > jnp.dtype(dtype).itemsize else leaf


@dataclasses.dataclass(frozen=True)
class ModelDefinition:
    """`init` makes the parameters, `apply` runs them, `shapes` and `axes` describe them without a device."""

    config: ModelConfig
    vocab_size: int

    @property
    def is_encoder_decoder(self) -> bool:
        return self.config.architecture == "encoder_decoder"

    @functools.cached_property
    def sites(self) -> Sites:
        """Every place where the model attends; raises UserError for an impossible combination."""
        return make_sites(self.config)

    @property
    def specs(self) -> tuple[AttentionSpec, ...]:
        """One for each different layer; in an encoder-decoder the decoder's."""
        return self.sites.decoder_specs

    @property
    def all_specs(self) -> tuple[AttentionSpec, ...]:
        """The encoder's and the cross-attention's too."""
        return (*self.sites.encoder_specs, *self.specs, *([self.sites.cross] if self.sites.cross else []))

    def sites_at(self, length: int, source_length: int | None) -> list[tuple[AttentionSpec, int]]:
        """Every layer that attends within one text, and how long that text is."""
        of_source = [(spec, source_length or length) for spec in self.sites.encoder_specs]
        return [(spec, length) for spec in self.specs] + of_source

    @property
    def label(self) -> str:
        """See `short_name`."""
        return naming.short_name(self.sites)

    @property
    def method(self) -> str:
        """See `method_name`."""
        return naming.method_name(self.sites)

    @property
    def common_position(self) -> str | None:
        """The method of the layers that do not name their own, with every derived parameter; none: all do."""
        return naming.common_position(self.config, self.sites)

    def with_own_positions_fixed(self) -> ModelConfig:
        """The config whose layers, and encoder, that name their own position name it with every derived parameter."""
        return naming.with_own_positions_fixed(self.config, self.sites)

    @property
    def longest(self) -> int | None:
        """The longest text that every layer can compute; none: any."""
        specs = (*self.specs, *self.sites.encoder_specs)
        return min((s.position.longest for s in specs if s.position.longest is not None), default=None)

    def out_of_design(self, length: int, seen: int | None = None, source_length: int | None = None) -> str | None:
        """Why a result at `length` lies outside what some layer is meant for, or None.

        Args:
          seen: see AttentionSpec.
          source_length: of an encoder's text; default: `length`.
        """
        reasons = dict.fromkeys(spec.out_of_design(n, seen) for spec, n in self.sites_at(length, source_length))
        return "; ".join(reason for reason in reasons if reason) or None

    @functools.cached_property
    def _abstract(self) -> tuple[nnx.GraphDef, nnx.State]:
        return nnx.split(nnx.eval_shape(self._module, jax.random.key(0)))

    def _module(self, key: jax.Array) -> nnx.Module:
        build: Any = MODULES[self.config.architecture]
        module: nnx.Module = build(self.config, self.vocab_size, self.sites, rngs=nnx.Rngs(params=key))
        return module

    def init(self, key: jax.Array) -> Parameters:
        """The parameters that training begins with, float32 whatever `param_dtype` says: see `as_read`."""
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

        return self._of_each(names)

    def _of_each(self, look: Callable[[nnx.Param], Any]) -> dict[str, Any]:
        """Return what `look` says of each parameter, in a tree like theirs."""
        looked = jax.tree.map(look, self._abstract[1], is_leaf=lambda x: isinstance(x, nnx.Variable))
        tree: dict[str, Any] = looked.to_pure_dict()
        return tree

    def apply(
        self,
        params: Parameters,
        tokens_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        segment_ids_BT: jax.Array | None = None,
        *,
        last: int | None = None,
        prefix_lengths_BT: jax.Array | None = None,
        block_positions_BT: jax.Array | None = None,
        window_ids_BT: jax.Array | None = None,
        source: Text | None = None,
    ) -> jax.Array:
        """Return the logits of `outputs`, of a text whose parts are given one by one; see `Text`."""
        text = Text(tokens_BT, positions_BT, segment_ids_BT, prefix_lengths_BT, block_positions_BT, window_ids_BT)
        return self.outputs(params, text, source, last=last).logits_BTV

    def outputs(
        self,
        params: Parameters,
        text: Text,
        source: Text | None = None,
        *,
        last: int | None = None,
        other_rows: int = 0,
    ) -> Outputs:
        """Return what the model makes of a text: logits [B, T, V], float32, and what layers add to the loss.

        Args:
          source: encoder-decoder only: what the encoder reads.
          last: logits of so many last positions only.
          other_rows: in training, how many other rows are in the memory of `knn` layers, see `attend`.
        """
        if (source is not None) != self.is_encoder_decoder:
            wrong = "needs a source" if source is None else "has no encoder: leave the source out"
            raise UserError(f"{self.config.architecture} {wrong}")
        has_prefix = self.config.architecture == "prefix_decoder"
        if (text.prefix_lengths is not None) != has_prefix:
            wrong = "needs prefix lengths" if has_prefix else "has no prefix: leave its lengths out"
            raise UserError(f"{self.config.architecture} {wrong}")
        texts = (text,) if source is None else (text, source)
        with self._module_of(params) as module:
            outputs: Outputs = module(*texts, last, other_rows=other_rows)
            return outputs

    def weights(self, params: Parameters, tokens_BT: jax.Array, look: Callable[[Weights], Any]) -> list[Any]:
        """What `look` makes of each layer's attention weights; causal decoders only."""
        if self.config.architecture != "causal_decoder":
            raise UserError(f"attention weights are looked at in causal decoders, not in {self.config.architecture}")
        with self._module_of(params) as module:
            seen: list[Any] = module.weights(tokens_BT, look)
            return seen

    @contextlib.contextmanager
    def _module_of(self, params: Parameters) -> Iterator[Any]:
        # float32 means float32: on recent GPUs and TPUs the default rounds float32 matmul inputs to 10 or 8 bits.
        precision = "float32" if self.config.compute_dtype == "float32" else None
        with jax.default_matmul_precision(precision):
            yield nnx.merge(self._abstract[0], self.as_read(params))

    def as_read(self, params: Parameters) -> Parameters:
        """The parameters rounded to `param_dtype`, which is all that the model sees of them.

        They are made, trained and saved in float32: a step of training is smaller than half precision can tell apart.
        What is narrower by now stays so (`for_generation`).
        """
        rounded: Parameters = jax.tree.map(lambda leaf: _narrowed(leaf, self.config.param_dtype), params)
        return rounded

    def unstacked(self, params: Parameters) -> Parameters:
        """The parameters as `step` reads them fastest: each layer of the stack that it runs has arrays of its own."""
        return {**params, "stack": unstacked(params["stack"])}

    def for_generation(self, params: Parameters) -> Parameters:
        """Return the parameters for many calls of `step`: unstacked, and rounded once to what `step` computes with.

        `start` and `step` compute the same from them as from `params`: only those are rounded that are rounded wherever they
        are read. The others (biases, norms, what positions learn) are added and multiplied in float32.
        """

        def cast(leaf: jax.Array, rounded: bool) -> jax.Array:
            return _narrowed(leaf, self.config.compute_dtype) if rounded else leaf

        rounded = self._of_each(lambda variable: variable.get_metadata().get("rounded", False))
        return self.unstacked(jax.tree.map(cast, self.as_read(params), rounded))

    def start(
        self,
        params: Parameters,
        rows: int,
        *,
        longest: int | None,
        chunk: int,
        lengths_B: jax.Array | None = None,
        spans_B: jax.Array | None = None,
        prefix_lengths_B: jax.Array | None = None,
        cut_B: jax.Array | None = None,
        source: Text | None = None,
        source_lengths_B: jax.Array | None = None,
        placed: bool = False,
    ) -> Cache:
        """An empty cache.

        Args:
          longest: tokens a row may get to have; none: any number, where every layer sees a window only.
          chunk: how many tokens are added at once at most.
          lengths_B: what each row will have in the end, for methods that depend on it; default: `longest`.
          spans_B: with `placed`, how many positions that spans; default: as many as tokens.
          prefix_lengths_B: prefix decoder only; a prefix is added as a whole.
          cut_B: window `parallel` only: the length that each row is cut for; default: `lengths_B`.
          source, source_lengths_B: encoder-decoder only: what the encoder reads, and how many of its tokens are real.
          placed: whether `step` will be given positions.

        Raises:
          UserError: a layer that sees all of a text without end; frequencies by the length of one.
        """
        if (prefix_lengths_B is None) == (self.config.architecture == "prefix_decoder"):
            wrong = "needs prefix lengths" if prefix_lengths_B is None else "has no prefix"
            raise UserError(f"{self.config.architecture} {wrong}")
        if longest is not None and longest < 1:
            raise UserError(f"longest={longest}: a cache needs room for a token, or none for any number of them")
        layout = self.specs[0].visibility.layout
        if placed and layout is not None:
            raise UserError("window 'parallel' gives tokens positions of its own: leave positions out")
        for name, given, owner in (("source", source, self.is_encoder_decoder), ("cut_B", cut_B, layout is not None)):
            if given is not None and not owner:
                raise UserError(f"{self.method} has no use for {name}: leave it out")
        for spec in self.specs:
            spec.check_length(longest or 1)
            if longest is None and spec.position.longest is not None:
                raise UserError(
                    f"{spec.position.method} cannot go beyond {spec.position.longest} tokens, and the text has no end"
                )
            if longest is None and lengths_B is None and spec.needs_length:
                raise UserError(
                    f"{spec.position.method} depends on the length of the whole text, which has no end here: choose "
                    "form=stepwise where it has one, or give a length"
                )
        if lengths_B is None:
            lengths_B = jnp.full(rows, longest or 0, jnp.int32)
        config, cut_B = self.config, lengths_B if cut_B is None else cut_B
        if spans_B is None:
            spans_B = lengths_B if layout is None else layout.span(lengths_B, cut_B)
        abstract: Any = nnx.merge(*self._abstract)  # empty states take no parameters
        states = abstract.stack.empty_states(rows, longest=longest, chunk=chunk, placed=placed)
        encoded: tuple[CrossCache | None, ...] = (None,) * len(states)
        if self.is_encoder_decoder:
            if source is None:
                raise UserError(f"{config.architecture} needs a source")
            if source_lengths_B is None:
                source_lengths_B = jnp.full(rows, source.tokens.shape[1], jnp.int32)
            with self._module_of(params) as module:
                encoded = module.cross_caches(source, source_lengths_B)
        return Cache(
            states=states,
            counts_B=jnp.zeros(rows, jnp.int32),
            spans_B1=spans_B[:, None],
            prefix_B1=None if prefix_lengths_B is None else prefix_lengths_B[:, None],
            cut_B1=None if layout is None else cut_B[:, None],
            encoded=encoded,
            placed=placed,
            chunk=chunk,
        )

    def step(
        self,
        params: Parameters,
        cache: Cache,
        tokens_BT: jax.Array,
        new_B: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        *,
        every: bool = False,
    ) -> tuple[jax.Array, Cache]:
        """Adds tokens to a cache; returns the logits [B, V] after the last of each row, float32, and the cache with them.

        Adding a text at once, in chunks or token by token gives the same logits, those of `apply`. A row must not get more
        tokens than the cache was started for.

        Args:
          params: better those `for_generation`, or `unstacked`.
          new_B: how many of the T tokens a row has; those after them are padding. Default: all. Of a row without new
            tokens the logits mean nothing.
          positions_BT: where the cache was started for them.
          every: logits after every token, [B, T, V].
        """
        length = tokens_BT.shape[1]
        if length > cache.chunk:
            raise UserError(f"{length} tokens at once: the cache was started for chunks of {cache.chunk}")
        if (positions_BT is not None) != cache.placed:
            wrong = "was started for positions: give them" if cache.placed else "was not started for positions"
            raise UserError(f"the cache {wrong} (placed={cache.placed})")
        take_B = None
        if not every:
            added_B = jnp.full(len(tokens_BT), length, jnp.int32) if new_B is None else new_B
            take_B = jnp.maximum(added_B - 1, 0)
        with self._module_of(params) as module:
            logits_BTV, cache = module.step(tokens_BT, cache, new_B, positions_BT, take_B)
        return (logits_BTV if every else logits_BTV[:, 0]), cache

    @property
    def num_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes))

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        """Parameters by part of the model."""
        return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in self.shapes.items()}

    @property
    def embedding_parameters(self) -> int:
        """Those of the token embeddings and of an unembedding of its own."""
        return self.vocab_size * self.config.dim * (1 if self.config.tied_embeddings else 2)

    def training_flops(self, tokens: int, *, prefix: int = 0, source: int = 0) -> float:
        """FLOPs to train on one text, see `flops.py`."""
        return training_flops(self.config, self.vocab_size, self._sizes, tokens, prefix=prefix, source=source)
