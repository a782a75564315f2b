"""`config.model`: the architecture, its positions and windows, and its sizes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from lmarch.config.fields import ADDED, ALSO_OF_LAYER, OF_LAYER, SPEED, check_seed, require_positive
from lmarch.errors import UserError, require

Architecture = Literal["causal_decoder", "prefix_decoder", "encoder_decoder"]
DType = Literal["float32", "bfloat16"]  # no float16: its range needs loss scaling, and bfloat16 needs none


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Where the encoder of an encoder-decoder differs from its decoder; none: it does not."""

    num_layers: int | None = None  # layers of the encoder; none: as many as the decoder's
    trained_length: int | None = None  # L of the encoder; none: the decoder's
    position: Mapping[str, Any] | None = None  # its position method; none: the decoder's
    window: Mapping[str, Any] | None = None  # its context window; none: the decoder's
    layers: tuple[Mapping[str, Any], ...] = ()  # its own pattern of layers; the decoder's is never taken over

    def __post_init__(self) -> None:
        require_positive(self, "config.model.encoder", "num_layers", "trained_length")


class LayerGroup(NamedTuple):
    """Layers that follow each other, as often as it says."""

    layers: "dict[str, ModelConfig]"  # by their names among the parameters: a stack of one kind of layer each
    repeats: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture and its sizes. `trained_length` is L of the position methods, in tokens.

    In an encoder-decoder the fields are the decoder's; `encoder` says where the encoder differs.
    """

    LAYER_FIELDS: ClassVar = ("first_layers", "layers", "last_layers")

    # Who may attend to whom.
    architecture: Architecture = "causal_decoder"
    trained_length: int = 128  # L, the longest row that training sees, in tokens; position methods are defined by it
    target_length: int | None = None  # the length a position method is stretched to; none: the trained length
    num_layers: int = 4  # layers of the stack; of an encoder-decoder, of the decoder
    dim: int = 128  # width of the residual stream
    num_heads: int = 4  # query heads of a layer
    # Key and value heads, a divisor of num_heads (grouped-query attention); none: as many.
    num_kv_heads: int | None = None
    head_dim: int | None = None  # size of a head; none: dim / num_heads
    # Size of a head's values; none: as of its queries and keys.
    value_head_dim: int | None = dataclasses.field(default=None, metadata=ADDED)
    # The feed-forward's activation: gated (swiglu, geglu) or plain.
    ffn: Literal["swiglu", "geglu", "gelu", "gelu_exact", "relu"] = "swiglu"
    ffn_dim: int | None = None  # its inner width; none: 8/3 dim (gated) or 4 dim, rounded up to a multiple of 32
    # Attention and feed-forward one after the other, or side by side (GPT-NeoX; with one norm GPT-J).
    block: Literal["sequential", "parallel", "parallel_one_norm"] = "sequential"
    norm: Literal["rms", "layer"] = "rms"  # RMSNorm, or LayerNorm with a bias
    norm_place: Literal["pre", "post"] = "pre"  # before attention and feed-forward, or after the residual sum
    norm_offset: bool = False  # norms multiply by 1 + w instead of w (Gemma)
    attention_bias: Literal["none", "qkv", "all"] = "none"  # which of attention's matrices have a bias
    ffn_bias: bool = False  # whether the feed-forward's matrices have a bias
    attention_scale: float | None = None  # factor of the logits of attention; none: 1 / sqrt(head_dim). T5 has 1
    attention_softcap: float | None = None  # c: logits of attention become c tanh(logits / c) (Gemma 2)
    logit_softcap: float | None = None  # the same for the logits of the next token
    scale_embeddings: bool = False  # token embeddings times sqrt(dim) (Transformer, Gemma)
    scale_unembedding: bool = False  # the last states times 1 / sqrt(dim) (T5 with tied embeddings)
    # What layers mix tokens with (docs/architecture.md).
    mixer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "attention"}, metadata=ADDED)
    # A position method (docs/positions.md), such as yarn:factor=4.
    position: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "rope"})
    # A pattern of layers, repeated: each gives its own position, window, selection, mixer, rope_base, heads, feed-forward or
    # biases, or leaves them to those fields.
    layers: tuple[Mapping[str, Any], ...] = ()
    # Layers before those of the pattern, in the same way; they count among num_layers.
    first_layers: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), metadata=ADDED)
    # Layers after those of the pattern.
    last_layers: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), metadata=ADDED)
    rope_base: float = 10_000.0  # the base of rotary frequencies, often called theta
    # A context window (docs/windows.md), such as streaming:sinks=4.
    window: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "full"})
    # Which of the visible tokens are attended to (docs/windows.md); none: all.
    selection: Mapping[str, Any] | None = None
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    # Cross-attention: unrotated, or the decoder's rotation with its positions counted on from the end of the source.
    cross_positions: Literal["none", "continuous"] = "none"
    # A temperature of unrotated cross-attention, n being the source's length.
    cross_temperature: Mapping[str, Any] | None = None
    cross_selection: Mapping[str, Any] | None = None  # a selection in cross-attention: `knn` (Unlimiformer)
    # Blank infilling's second position, the place in a span: turns half of each head, or is a learned embedding.
    block_positions: Literal["none", "rotary", "learned"] = "none"
    sink: bool = False  # a learned logit per head in the softmax's denominator: a query may attend to nothing
    qk_norm: bool = False  # queries and keys of each head are normalised before they are rotated
    tied_embeddings: bool = True  # one matrix embeds tokens and gives the logits of the next
    norm_eps: float = 1e-6  # what norms add to the mean square
    init_std: float = 0.02  # standard deviation of the embeddings at the start; matrices have variance 1 / fan_in
    # The width at which the learning rate was tuned: wider models then train well with it (muP, docs/sweeps.md).
    base_dim: int | None = dataclasses.field(default=None, metadata=ADDED)
    seed: int = 0  # of the parameters at the start
    # What the model rounds parameters to where it reads them; they are trained and saved in float32, with all of the state.
    param_dtype: DType = "float32"
    compute_dtype: DType = "float32"  # of products; norms, rotations, logits and softmax are float32 whatever this says
    # How attention is computed; all give the same numbers but for rounding. What a name does not serve is refused
    # (`fused`: packed rows, so training); `auto` takes what suits.
    attention: str = dataclasses.field(default="auto", metadata=SPEED)
    # Compiles one layer of the pattern and loops over it: faster to compile.
    scan_layers: bool = dataclasses.field(default=True, metadata=SPEED)
    # What the backward pass recomputes to save memory: nothing, all but matmuls, all.
    remat: Literal["none", "dots", "full"] = dataclasses.field(default="none", metadata=SPEED)

    def __post_init__(self) -> None:
        where = "config.model"
        require_positive(
            self, where, "trained_length", "target_length", "num_layers", "dim", "num_heads", "num_kv_heads"
        )
        require_positive(self, where, "head_dim", "value_head_dim", "ffn_dim", "rope_base", "norm_eps", "init_std")
        check_seed(self, where)
        if self.head_dim is None:
            rule = f"must be a multiple of num_heads={self.num_heads} (or set head_dim)"
            require(self.dim % self.num_heads == 0, f"{where}.dim", self.dim, rule)
        self._check_layers(where)
        rule = f"must divide num_heads={self.num_heads}"
        require(self.num_heads % self.kv_heads == 0, f"{where}.num_kv_heads", self.num_kv_heads, rule)
        require_positive(self, where, "attention_scale", "attention_softcap", "logit_softcap")
        require(
            self.block == "sequential" or (self.norm_place == "pre" and self.architecture != "encoder_decoder"),
            f"{where}.block",
            self.block,
            "needs norm_place='pre' and an architecture of one stack",
        )
        require_positive(self, where, "base_dim")
        for name in ("scale_embeddings", "scale_unembedding"):
            rule = f"scales by the width in another way than base_dim={self.base_dim}: leave one of them out"
            require(not (self.base_dim and getattr(self, name)), f"{where}.{name}", True, rule)
        if self.block_positions == "rotary":
            rule = "needs head_dim to be a multiple of 4: half of it turns by the place in a span"
            require(self.head_size % 4 == 0, f"{where}.block_positions", self.block_positions, rule)
        self._check_encoder(where)

    def _check_layers(self, where: str) -> None:
        """Refuse unknown fields of a layer, and layers that do not add up."""
        known = (*OF_LAYER, *ALSO_OF_LAYER)
        for field in self.LAYER_FIELDS:
            for index, layer in enumerate(getattr(self, field)):
                for name in layer.keys() - set(known):
                    raise UserError(f"unknown field {name!r} in {where}.{field}[{index}]; known: {', '.join(known)}")
        alone = len(self.first_layers) + len(self.last_layers)
        rule = f"must be above the {alone} layers of {where}.first_layers and {where}.last_layers"
        require(self.num_layers > alone, f"{where}.num_layers", self.num_layers, rule)
        if self.layers:
            rule = f"must be a multiple of the {len(self.layers)} layers of the pattern in {where}.layers"
            rule += f", besides the {alone} before and after it" if alone else ""
            require((self.num_layers - alone) % len(self.layers) == 0, f"{where}.num_layers", self.num_layers, rule)
        for group in self.groups if any(getattr(self, field) for field in self.LAYER_FIELDS) else ():
            assert group.layers  # a layer's own sizes are checked where its config is made

    def _check_encoder(self, where: str) -> None:
        """Refuses fields that mean nothing for the architecture."""
        if self.architecture == "encoder_decoder":
            rule = "belongs to decoders of one stream"
            require(self.block_positions == "none", f"{where}.block_positions", self.block_positions, rule)
            rule = "belongs to cross_positions='none': the decoder's own position names its temperature"
            ok = self.cross_temperature is None or self.cross_positions == "none"
            require(ok, f"{where}.cross_temperature", self.cross_temperature, rule)
            longer = self.encoder.trained_length or 0
            rule = f"must not be below config.model.encoder.trained_length={longer}"
            require((self.target_length or longer) >= longer, f"{where}.target_length", self.target_length, rule)
            try:
                assert self.of_encoder  # checks the encoder's pattern against its layers
            except UserError as error:
                raise UserError(str(error).replace(where, f"{where}.encoder")) from error
            return
        rule = f"belongs to architecture='encoder_decoder', not to {self.architecture!r}"
        of_two = {
            "encoder": EncoderConfig(),
            "cross_positions": "none",
            "cross_temperature": None,
            "cross_selection": None,
        }
        for name, plain in of_two.items():
            require(getattr(self, name) == plain, f"{where}.{name}", getattr(self, name), rule)

    @property
    def of_encoder(self) -> "ModelConfig":
        """The encoder's stack, described as a model's stack is."""
        own = self.encoder
        return dataclasses.replace(
            self,
            architecture="causal_decoder",  # one stack; its specs say that it is bidirectional
            num_layers=own.num_layers or self.num_layers,
            trained_length=own.trained_length or self.trained_length,
            position=own.position or self.position,
            window=own.window or self.window,
            layers=own.layers,
            first_layers=(),
            last_layers=(),
            selection=None,  # those that are defined choose among earlier tokens
            encoder=EncoderConfig(),
            cross_positions="none",
            cross_temperature=None,
            cross_selection=None,
        )

    @property
    def own_settings(self) -> tuple[Mapping[str, Any], ...]:
        """What each different layer has for itself: the first ones, those of the pattern, the last ones."""
        return (*self.first_layers, *(self.layers or ({},)), *self.last_layers)

    @property
    def each_layer(self) -> tuple[Mapping[str, Any], ...]:
        """Position, window, selection and mixer of each different layer."""
        common = {name: getattr(self, name) for name in (*OF_LAYER, "mixer")}
        return tuple({**common, **layer} for layer in self.own_settings)

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The layers of the stack in order, each described by a config of its own."""
        alone = len(self.first_layers) + len(self.last_layers)
        pattern = self.layers or ({},)
        repeated = ("layers",) if len(pattern) == 1 else tuple(f"layers_{n}" for n in range(len(pattern)))
        named = (
            ({f"first_layers_{n}": layer for n, layer in enumerate(self.first_layers)}, 1),
            (dict(zip(repeated, pattern, strict=True)), (self.num_layers - alone) // len(pattern)),
            ({f"last_layers_{n}": layer for n, layer in enumerate(self.last_layers)}, 1),
        )
        plain: dict[str, Any] = dict.fromkeys(self.LAYER_FIELDS, ())
        return tuple(
            LayerGroup({name: dataclasses.replace(self, **plain, **own) for name, own in layers.items()}, repeats)
            for layers, repeats in named
            if layers
        )

    @property
    def width_ratio(self) -> float:
        """How much wider it is than the width that its learning rate is for."""
        return self.dim / self.base_dim if self.base_dim else 1.0

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.dim // self.num_heads

    @property
    def value_size(self) -> int:
        return self.value_head_dim or self.head_size

    @property
    def ffn_size(self) -> int:
        if self.ffn_dim:
            return self.ffn_dim
        return -(-8 * self.dim // (3 * 32)) * 32 if self.ffn in ("swiglu", "geglu") else 4 * self.dim
