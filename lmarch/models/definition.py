"""A model as pure functions over a plain nested dict of parameters. NNX defines it; nobody above sees NNX."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmarch.attention.cache import empty_layer, empty_places, slots_for
from lmarch.attention.spec import AttentionSpec, attention_spec
from lmarch.attention.weights import Weights
from lmarch.branches import Branch
from lmarch.config import ModelConfig
from lmarch.config.fields import OF_LAYER
from lmarch.errors import UserError
from lmarch.models.cache import Cache, Encoded
from lmarch.models.decoder import Decoder
from lmarch.models.encoder_decoder import EncoderDecoder, Source
from lmarch.models.language_model import Sites
from lmarch.models.layers import Tokens
from lmarch.models.stack import unstacked
from lmarch.registry import Variant, parse_variant, variant_name

ARCHITECTURES = {"causal_decoder": Decoder, "prefix_decoder": Decoder, "encoder_decoder": EncoderDecoder}
Parameters = dict[str, Any]


def layer_specs(config: ModelConfig, site: str) -> tuple[AttentionSpec, ...]:
    """The AttentionSpec of each layer of the repeated pattern; raises UserError for an impossible combination.

    Args:
      site: who may see whom: an architecture of `attention_spec`.
    """
    specs = tuple(_spec(config, site, *(layer[name] for name in OF_LAYER)) for layer in config.pattern)
    if len({spec.position.embedding for spec in specs}) > 1:
        methods = ", ".join(spec.position.method for spec in specs)
        raise UserError(
            f"config.model.layers mix {methods}: positions added to embeddings cannot differ between layers"
        )
    if len({spec.visibility.layout for spec in specs}) > 1:
        windows = ", ".join(spec.window for spec in specs)
        raise UserError(
            f"config.model.layers mix windows {windows}: parallel windows cut the text for every layer alike"
        )
    return specs


def cross_spec(config: ModelConfig) -> AttentionSpec:
    """That of an encoder-decoder's cross-attention; of an index map, at continuous positions, its frequencies alone."""
    if config.cross_positions == "continuous":
        position = dict(parse_variant(config.position))
        if _spec(config, "causal_decoder", position, "full").position.branches != (Branch(),):
            kept = {name: position[name] for name in ("temperature",) if name in position}
            position = {**parse_variant(position.get("frequencies", "rope")), **kept}
        return _spec(config, "cross_attention", position, "full", config.cross_selection)
    temperature = {"temperature": config.cross_temperature} if config.cross_temperature else {}
    return _spec(config, "cross_attention", {"name": "nope", **temperature}, "full", config.cross_selection)


def _spec(
    config: ModelConfig, site: str, position: Variant, window: Variant, selection: Variant | None = None
) -> AttentionSpec:
    return attention_spec(
        architecture=site,
        position=position,
        window=window,
        head_dim=config.head_size,
        position_dim=config.head_size // 2 if config.block_positions == "rotary" else None,
        num_heads=config.num_heads,
        trained_length=config.trained_length,
        target_length=config.target_length,
        rope_base=config.rope_base,
        selection=selection,
        sink=config.sink,
        logit_scale=config.attention_scale,
        softcap=config.attention_softcap,
    )


@contextlib.contextmanager
def _naming(site: str) -> Iterator[None]:
    """Says which site a UserError is about: in an encoder-decoder they share most settings."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{site}: {error}") from error


def _spelled_out(spec: AttentionSpec) -> dict[str, Any]:
    """Its position method with every derived parameter."""
    return dict(parse_variant(spec.position.method))


@dataclasses.dataclass(frozen=True)
class ModelDefinition:
    """`init` makes the parameters, `apply` runs them, `shapes` and `axes` describe them without a device."""

    config: ModelConfig
    vocab_size: int

    @property
    def is_encoder_decoder(self) -> bool:
        return self.config.architecture == "encoder_decoder"

    @functools.cached_property
    def specs(self) -> tuple[AttentionSpec, ...]:
        """One for each layer of the repeated pattern; in an encoder-decoder the decoder's."""
        return layer_specs(self.config, "causal_decoder" if self.is_encoder_decoder else self.config.architecture)

    @functools.cached_property
    def sites(self) -> Sites:
        """The attention sites; encoder and cross-attention are none in a decoder of one stream."""
        if not self.is_encoder_decoder:
            return Sites((), self.specs, None)
        with _naming("config.model.encoder"):
            encoder = layer_specs(self.config.of_encoder, "encoder")
        with _naming("config.model.cross_positions"):
            return Sites(encoder, self.specs, cross_spec(self.config))

    def sites_at(self, length: int, source_length: int | None) -> list[tuple[AttentionSpec, int]]:
        """Every layer that attends within one text, and how long that text is."""
        return [(s, length) for s in self.specs] + [(s, source_length or length) for s in self.sites.encoder]

    @property
    def label(self) -> str:
        """`method` without its parameters: `3 x rope (sliding) + 1 x nope`."""
        return self._by_site(variant_name, "({})")

    @property
    def method(self) -> str:
        """The position methods of the pattern, in one line, with the windows that narrow anything.

        Of an encoder-decoder also the encoder's where they differ, and the cross-attention's if it is not plain nope.
        """
        return self._by_site(str, "in {}")

    def _by_site(self, short: Callable[[str], str], inside: str) -> str:
        def named(specs: tuple[AttentionSpec, ...]) -> str:
            names = [
                " ".join([short(s.position.method), *(inside.format(short(name)) for name in s.narrowing)])
                for s in specs
            ]
            runs = [(name, len(list(group))) for name, group in itertools.groupby(names)]
            return " + ".join(name if len(names) == 1 else f"{count} x {name}" for name, count in runs)

        own = named(self.specs)
        if not self.is_encoder_decoder:
            return own
        assert self.sites.cross is not None
        encoder = named(self.sites.encoder)
        cross = " ".join(
            [short(self.sites.cross.position.method), *(inside.format(short(n)) for n in self.sites.cross.narrowing)]
        )
        parts = [own] if encoder == own else [f"encoder {encoder}", f"decoder {own}"]
        return ", ".join(parts + [f"cross {cross}"] * (cross != "nope"))

    @property
    def common_position(self) -> str | None:
        """The method of the layers that do not name their own, with every derived parameter; none: all do."""
        layers = list(zip(self.config.layers or ({},), self.specs, strict=True))
        if self.is_encoder_decoder and not self.config.encoder.position:
            layers += list(zip(self.config.encoder.layers or ({},), self.sites.encoder, strict=True))
        return next((spec.position.method for layer, spec in layers if "position" not in layer), None)

    def with_own_positions_fixed(self) -> ModelConfig:
        """The config whose layers, and encoder, that name their own position name it with every derived parameter."""

        def fixed(layers: Sequence[Mapping[str, Any]], specs: Sequence[AttentionSpec]) -> tuple[Mapping[str, Any], ...]:
            return tuple(
                {**layer, "position": _spelled_out(spec)} if "position" in layer else layer
                for layer, spec in zip(layers, specs, strict=False)
            )

        config, encoder = self.config, self.config.encoder
        if self.is_encoder_decoder:
            common = [
                s
                for s, layer in zip(self.sites.encoder, encoder.layers or ({},), strict=True)
                if "position" not in layer
            ]
            position = _spelled_out(common[0]) if encoder.position and common else encoder.position
            layers = fixed(encoder.layers, self.sites.encoder)
            encoder = dataclasses.replace(encoder, position=position, layers=layers)
        return dataclasses.replace(config, layers=fixed(config.layers, self.specs), encoder=encoder)

    @property
    def longest(self) -> int | None:
        """The longest text that every layer can compute; none: any."""
        specs = (*self.specs, *self.sites.encoder)
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
        build: Any = ARCHITECTURES[self.config.architecture]
        made: nnx.Module = build(self.config, self.vocab_size, self.sites, rngs=nnx.Rngs(params=key))
        return made

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

        return jax.tree.map(names, self._abstract[1], is_leaf=lambda x: isinstance(x, nnx.Variable)).to_pure_dict()

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
        other_rows: int = 0,
        source: Source | None = None,
    ) -> jax.Array:
        """Logits [B, T, V], float32; of the `last` positions only, if given.

        Args:
          prefix_lengths_BT: prefix decoder only, see `attend`.
          block_positions_BT: places in a span, for models with `block_positions`.
          window_ids_BT: with window `parallel` and positions, how the text is cut; default: as the window says.
          other_rows: in training, how many other rows are in the memory of `knn` layers, see `attend`.
          source: encoder-decoder only: what the encoder reads.
        """
        if (source is not None) != self.is_encoder_decoder:
            wrong = "needs a source" if source is None else "has no encoder: leave the source out"
            raise UserError(f"{self.config.architecture} {wrong}")
        tokens = Tokens(positions_BT, segment_ids_BT, prefix_lengths_BT, block_positions_BT, window_ids_BT, other_rows)
        texts = (tokens_BT, tokens) if source is None else (tokens_BT, tokens, source)
        with self._module_of(params) as module:
            made: jax.Array = module(*texts, last=last)
            return made

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
        """
        read: Parameters = jax.tree.map(lambda leaf: leaf.astype(self.config.param_dtype), params)
        return read

    def unstacked(self, params: Parameters) -> Parameters:
        """The parameters as `step` reads them fastest: those of each layer apart."""
        stacks = ("stack", "encoder")
        return {name: unstacked(part) if name in stacks else part for name, part in params.items()}

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
        source: Source | None = None,
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
        placed = placed or layout is not None
        slots = [slots_for(spec, longest, chunk) for spec in self.specs]
        layers = tuple(
            empty_layer(spec, of_layer, rows, config.kv_heads, jnp.dtype(config.compute_dtype), placed=placed)
            for _ in range(config.num_layers // len(self.specs))
            for spec, of_layer in zip(self.specs, slots, strict=True)
        )
        encoded: tuple[Encoded | None, ...] = (None,) * config.num_layers
        if self.is_encoder_decoder:
            if source is None:
                raise UserError(f"{config.architecture} needs a source")
            if source_lengths_B is None:
                source_lengths_B = jnp.full(rows, source.tokens_BS.shape[1], jnp.int32)
            with self._module_of(params) as module:
                encoded = module.encoded(source, source_lengths_B)
        return Cache(
            layers,
            {each: empty_places(each, rows, windows=layout is not None) for each in sorted(set(slots))},
            jnp.zeros(rows, jnp.int32),
            spans_B[:, None],
            None if prefix_lengths_B is None else prefix_lengths_B[:, None],
            None if layout is None else cut_B[:, None],
            encoded,
            placed,
            chunk,
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
          params: better `unstacked`.
          new_B: how many of the T tokens a row has; those after them are padding. Default: all. Of a row without new
            tokens the logits mean nothing.
          positions_BT: where the cache was started for them.
          every: logits after every token, [B, T, V].
        """
        length, layout = tokens_BT.shape[1], self.specs[0].visibility.layout
        if length > cache.chunk:
            raise UserError(f"{length} tokens at once: the cache was started for chunks of {cache.chunk}")
        if (positions_BT is not None) != (cache.placed and layout is None):
            wrong = (
                "was not started for positions" if positions_BT is not None else "was started for positions: give them"
            )
            raise UserError(f"the cache {wrong} (placed={cache.placed})")
        at = cache.places_of_next(length, new_B, positions_BT, layout)
        added_B = jnp.full(len(tokens_BT), length, jnp.int32) if new_B is None else new_B
        with self._module_of(params) as module:
            logits_BTV, cache = module.step(tokens_BT, cache, at, None if every else jnp.maximum(added_B - 1, 0))
        cache = dataclasses.replace(cache, counts_B=cache.counts_B + added_B)
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
        """FLOPs to train on one text: 6 per parameter of the stacks and token it is applied to, and attention.

        Attention takes 12 H K a layer and pair seen: half of `tokens`^2 in a causal decoder, half of `prefix`^2 more in a
        prefix decoder; in an encoder-decoder also all of `source`^2 and of tokens x source. Embedding look-ups cost
        nothing; the unembedding counts, tied or not. What a window saves is not taken off.
        """
        config, per_pair = self.config, 12 * self.config.num_heads * self.config.head_size
        sizes = self._sizes
        unembedding = self.vocab_size * config.dim
        pairs = config.num_layers * (tokens**2 + prefix**2) / 2
        if not self.is_encoder_decoder:
            return 6 * (sizes["stack"] + unembedding) * tokens + per_pair * pairs
        of_source = 2 * config.dim * config.kv_heads * config.head_size * config.num_layers  # cross keys and values
        pairs += config.num_layers * tokens * source + config.of_encoder.num_layers * source**2
        matrices = (sizes["stack"] - of_source + unembedding) * tokens + (sizes["encoder"] + of_source) * source
        return 6 * matrices + per_pair * pairs
