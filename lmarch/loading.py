"""`lmarch.load`: a trained model as one immutable handle, for notebooks, evaluation and generation."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmarch.attention.spec import AttentionSpec
from lmarch.config import Config
from lmarch.config.fields import OF_LAYER
from lmarch.data.landmarks import Landmarks, landmark_block
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.generation.generator import Generator, Texts
from lmarch.generation.sampling import Sampling
from lmarch.generation.writing import Writing
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.text import Text
from lmarch.objectives import objective_for
from lmarch.positions import SAMPLERS
from lmarch.registry import parse_variant, variant_name
from lmarch.training.checkpoints import read_parameters
from lmarch.training.workdir import read_config, run_tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Weights and how to read them. `config` is what they were trained with; `definition` what is computed now."""

    config: Config
    definition: ModelDefinition
    trained_params: Parameters
    tokenizer: Tokenizer
    workdir: Path
    step: int
    average: bool = False  # the weights are the moving average over training

    @property
    def spec(self) -> AttentionSpec:
        """The attention layer in use (that of layer 0)."""
        return self.definition.specs[0]

    @functools.cached_property
    def landmarks(self) -> Landmarks | None:
        """The tokens that are put into every text it reads, as they were in training; none: there are no such."""
        return make_plan(self.config).landmarks(self.tokenizer)

    @property
    def sampled_reach(self) -> int | None:
        """How many positions the model's sampler draws from, if it was trained with one that evaluates so too."""
        sampler = self.config.data.position_sampler
        made = SAMPLERS.build(sampler) if sampler else None
        return made.reach() if made and made.at_evaluation else None

    def sampled_positions(self, lengths: Sequence[int], seed: int) -> np.ndarray:
        """Positions of that sampler for texts of these lengths, [B, longest]; row b depends on its length, b and the seed.

        What is beyond a shorter text repeats its last position.
        """
        assert self.sampled_reach is not None
        sampler, longest = SAMPLERS.build(self.config.data.position_sampler or {}), max(lengths)
        rows = [sampler.sample(length, np.random.default_rng((seed, row))) for row, length in enumerate(lengths)]
        return np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows])

    @functools.cached_property
    def left_out(self) -> tuple[str, ...]:
        """What was trained and is not used now: a bias, or a temperature, that another position method has not."""
        used = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(self.definition.shapes)}
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(self.trained_params)]
        return tuple(
            jax.tree_util.keystr(path[-1:], simple=True) for path in paths if jax.tree_util.keystr(path) not in used
        )

    def out_of_design(self, length: int, source_length: int | None = None) -> str | None:
        """Why a result at `length` (and an encoder's `source_length`) is outside what the model is meant for, or None."""
        trained = self.config.model.trained_length
        reach = max(trained, make_plan(self.config).reach)  # sampled positions, or fine-tuned at a longer length
        tokens, length = length, length if self.landmarks is None else self.landmarks.length(length)
        reasons = [self.definition.out_of_design(length, seen=reach, source_length=source_length)]
        if tokens <= trained < length and not all(spec.bounded for spec in self.definition.specs):
            reasons.append(f"{tokens} tokens are {length} with their landmarks, and training saw {trained}")
        architecture = self.config.model.architecture
        objective = objective_for(self.config.objective, architecture)
        if not objective.overlapping:
            reasons.append(f"trained on {variant_name(self.config.objective)}, scored on continuations as such")
        elif architecture == "prefix_decoder" and objective.largest(length).inputs == 1:
            reasons.append("trained without a prefix, scored after one")
        if self.left_out:
            reasons.append(f"{self.method} leaves out what was trained: {', '.join(sorted(set(self.left_out)))}")
        return "; ".join(reason for reason in reasons if reason) or None

    @property
    def method(self) -> str:
        """The position method in use, with every derived parameter; of a mixture, those of its layers."""
        return self.definition.method

    @functools.cached_property
    def params(self) -> Parameters:
        """Of the trained parameters, those that what is computed now has."""
        return _shared_parameters(self.trained_params, self.definition)

    @functools.cached_property
    def weights_fingerprint(self) -> str:
        """A short hash of every parameter in use: equal exactly when the weights are."""
        sha = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            sha.update(np.ascontiguousarray(leaf).tobytes())
        return sha.hexdigest()[:12]

    @property
    def without_weights(self) -> "Model":
        """What is computed, for programs that are given the weights and must not keep them alive."""
        return dataclasses.replace(self, trained_params={})

    def with_position(self, name: str, *, target_length: int | None = None, **parameters: Any) -> "Model":
        """The same weights under another position method: `model.with_position("ntk", factor=8)`.

        In a mixture, the layers that name their own method keep it.

        Args:
          target_length: the length a factor is derived from when none is given; default: the config's.
        """
        position = {**parse_variant(name), **parameters}
        return self._with(position=position, target_length=target_length or self.definition.config.target_length)

    def with_window(self, name: str, **parameters: Any) -> "Model":
        """The same weights under another context window: `model.with_window("full")`.

        Layers, or an encoder, that name their own keep it.
        """
        return self._with(window={**parse_variant(name), **parameters})

    def with_selection(self, name: str | None, **parameters: Any) -> "Model":
        """The same weights, attending to selected tokens: `model.with_selection("infllm", local=64)`; None: to all.

        Layers that name their own keep it.
        """
        return self._with(selection=None if name is None else {**parse_variant(name), **parameters})

    def _with(self, **changes: Any) -> "Model":
        for name in (name for name in changes if name in OF_LAYER):
            encoder = self.config.model.encoder
            of_encoder = getattr(encoder, name, None) or (encoder.layers and all(name in of for of in encoder.layers))
            taken = any(
                name not in own and variant_name(layer["mixer"]) == "attention"
                for own, layer in zip(self.config.model.own_settings, self.config.model.each_layer, strict=True)
            )
            if not taken and (of_encoder or not self.definition.is_encoder_decoder):
                given = variant_name(changes[name]) if changes[name] else "none"
                raise UserError(
                    f"no layer takes {name} {given!r}: every layer of config.model names its own, or does not attend"
                )
        config = dataclasses.replace(self.definition.with_own_positions_fixed(), **changes)
        block, trained = landmark_block(config), self.landmarks and self.landmarks.block
        if block is not None and block != trained:
            stand = f"stand after every {trained} tokens" if trained else "are none: it was trained without"
            raise UserError(
                f"selection landmark:block={block} needs landmarks there, and in this model's text they {stand}"
            )
        definition = ModelDefinition(config, self.definition.vocab_size)
        other = dataclasses.replace(self, definition=definition)
        _shared_parameters(self.trained_params, definition)  # what was not trained stops here, not at the first call
        if self.sampled_reach is not None and definition.specs[0].visibility.layout is not None:
            raise UserError(
                "window parallel gives tokens positions of its own, and this model is evaluated at sampled ones"
            )
        return other

    def logits(self, tokens_BT: Any, targets_BT: Any = None, *, prefix_length: Any = None) -> jax.Array:
        """Logits, float32 [B, T, V], of texts that start at position 0.

        Args:
          tokens_BT: integers. Position t predicts token t + 1. An encoder-decoder's encoder reads them.
          targets_BT: encoder-decoder only: what its decoder says; position t predicts target t from those before it.
          prefix_length: prefix decoder only: how many tokens are seen both ways; one number, or one a row.
        """
        tokens_BT = self._checked(tokens_BT, "tokens")
        architecture = self.definition.config.architecture
        for name, given, owner in (
            ("targets", targets_BT, "encoder_decoder"),
            ("prefix_length", prefix_length, "prefix_decoder"),
        ):
            if (given is not None) != (architecture == owner):
                raise UserError(f"{architecture} {'needs' if given is None else 'has no'} {name}: see Model.logits")
        if targets_BT is not None:
            read_BT = self.shifted(self._checked(targets_BT, "targets"))
            if len(read_BT) != len(tokens_BT):
                raise UserError(f"{len(tokens_BT)} texts of tokens and {len(read_BT)} of targets: give as many of both")
            return self._apply(self.params, read_BT, source=Text(tokens_BT))
        if prefix_length is not None:
            prefix, (batch, length) = np.asarray(prefix_length), tokens_BT.shape
            whole = np.issubdtype(prefix.dtype, np.integer) and prefix.shape in ((), (batch,))
            if not whole or prefix.min() < 0 or prefix.max() > length:
                raise UserError(f"prefix_length={prefix_length} must be in [0, {length}], one number or one a row")
            return self._apply(self.params, tokens_BT, prefix_lengths_BT=jnp.asarray(prefix, jnp.int32))
        if self.landmarks is not None:
            return self.landmarks.logits(self._apply, self.params, tokens_BT)
        return self._apply(self.params, tokens_BT)

    def generate(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        prefix_length: int | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> Any:
        """The text that follows a prompt, without the prompt; of several prompts, a list.

        It ends at the end-of-text id, before any of the texts in `stop`, or after `max_new_tokens`. What row b of a batch
        draws depends on the seed, b and its own text. An encoder-decoder's encoder reads the prompt.

        Args:
          temperature: 0 takes the most likely token.
          top_k, top_p: draw from the k most likely tokens; from the fewest that together have probability p.
          prefix_length: prefix decoder only: how many tokens of a prompt are seen both ways; default: all.
          on_text: called with (row, new text) as it comes.

        Raises:
          UserError: an empty prompt, a value out of range, a text longer than the model can compute, one that is no Unicode.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        if not prompts:
            raise UserError(f"prompt={prompt!r}: every prompt needs at least one token, and there is none")
        if not isinstance(max_new_tokens, int):
            raise UserError(f"max_new_tokens={max_new_tokens!r} must be a whole number")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed={seed} must be in [0, 2**32)")
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if max_new_tokens < 1 or "" in stops:
            wrong = "stop has an empty text" if max_new_tokens >= 1 else f"max_new_tokens={max_new_tokens}"
            raise UserError(f"{wrong}: there must be something to write")
        for text in stops:
            self.tokenizer.encode(text)  # refuses what could never be written
        sampling = Sampling(temperature, top_k, top_p)
        rows = [Writing(self.tokenizer, stops) for _ in prompts]

        def tell(row: int, text: str) -> None:
            if on_text is not None and text:
                on_text(row, text)

        texts = self._texts([self.tokenizer.encode(text) for text in prompts], max_new_tokens, prefix_length, seed)
        forbidden = (self.tokenizer.bos, self.tokenizer.pad)
        for drawn_B in self._generator.tokens(texts, max_new_tokens, sampling, seed, forbidden):
            for number, (row, token) in enumerate(zip(rows, drawn_B.tolist(), strict=True)):
                tell(number, row.add(token))
            if all(row.done for row in rows):
                break
        for number, row in enumerate(rows):
            tell(number, row.end())
        return rows[0].text if isinstance(prompt, str) else [row.text for row in rows]

    def _texts(self, prompts: list[np.ndarray], room: int, prefix_length: int | None, seed: int) -> Texts:
        """What each architecture reads of prompts, with sampled positions for those that are evaluated at such."""
        architecture = self.definition.config.architecture
        if prefix_length is not None and architecture != "prefix_decoder":
            raise UserError(f"{architecture} has no prefix: leave prefix_length out")
        if prefix_length is not None and not 0 <= prefix_length <= min(map(len, prompts)):
            raise UserError(
                f"prefix_length={prefix_length} must be in [0, {min(map(len, prompts))}], the shortest prompt"
            )
        start = [np.array([self.tokenizer.bos], np.int32) for _ in prompts]
        texts = Texts(prompts)
        if architecture == "encoder_decoder":
            texts = Texts(start, sources=prompts)
        elif architecture == "prefix_decoder":
            texts = Texts(prompts, prefix_lengths=[len(p) if prefix_length is None else prefix_length for p in prompts])
        if self.sampled_reach is None:
            return texts
        read = [len(one) for one in prompts]
        if texts.sources is None:
            return dataclasses.replace(texts, positions=self.sampled_positions([n + room for n in read], seed))
        source = self.sampled_positions(read, seed)
        positions = self.sampled_positions([1 + room] * len(prompts), seed + 1)
        return dataclasses.replace(texts, positions=positions, source_positions=source)

    def shifted(self, targets_BT: jax.Array) -> jax.Array:
        """What an encoder-decoder's decoder reads to say `targets_BT`: the start token, then all but the last."""
        start_B1 = jnp.full_like(targets_BT[:, :1], self.tokenizer.bos)
        return jnp.concatenate([start_B1, targets_BT[:, :-1]], axis=1)

    def _checked(self, ids: Any, what: str) -> jax.Array:
        tokens, vocab_size = np.asarray(ids), self.definition.vocab_size
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer) or not tokens.size:
            raise UserError(f"{what} must be integers [batch, length], got {tokens.dtype} of shape {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise UserError(f"{what} {tokens.min()} .. {tokens.max()} do not all lie in the vocabulary of {vocab_size}")
        return jnp.asarray(tokens, jnp.int32)

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(self.definition, self.params, self.landmarks)

    @functools.cached_property
    def _apply(self) -> Callable[..., jax.Array]:
        return jax.jit(self.definition.apply, static_argnames="last")


def _shared_parameters(params: Parameters, definition: ModelDefinition) -> Parameters:
    """Of `params`, those that `definition` has; UserError for any that it has besides.

    A bias that the new position method does not have is left out: that is what another method means.
    """
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def find(path: Any, wanted: jax.ShapeDtypeStruct) -> Any:
        where = jax.tree_util.keystr(path)
        if where not in leaves or leaves[where].shape != wanted.shape:
            name = jax.tree_util.keystr(path[-1:], simple=True)
            raise UserError(f"{definition.method} learns {name!r}, which these weights were not trained with")
        return leaves[where]

    found: Parameters = jax.tree_util.tree_map_with_path(find, definition.shapes)
    return found


def untrained(config: Config, workdir: Path = Path("none")) -> Model:
    """The model that a config makes before it has weights, whose shapes stand for them: to ask what can be done with it.

    Args:
      workdir: of its run, if that has begun.
    """
    tokenizer = run_tokenizer(workdir, config)
    definition = ModelDefinition(config.model_at(config.total_steps), make_plan(config).vocabulary_size(tokenizer))
    return Model(config, definition, definition.shapes, tokenizer, workdir, step=0)


def load(workdir: str | Path, step: int | None = None, average: bool = False) -> Model:
    """The model trained in `workdir`, from its latest checkpoint or the one at `step`, on one device.

    Args:
      average: its weights' moving average, which `train.average_decay` keeps, instead of the last ones.

    Raises:
      UserError: no run there, no checkpoint, or a checkpoint that does not fit the config.
    """
    folder = Path(workdir).expanduser()
    config = read_config(folder)
    tokenizer = run_tokenizer(folder, config)
    vocab_size = make_plan(config).vocabulary_size(tokenizer)
    definition = ModelDefinition(config.model, vocab_size)
    if average and config.train.average_decay is None:
        raise UserError(f"{folder} keeps no average of its weights: train with config.train.average_decay=0.999")
    found, params, record = read_parameters(folder, definition.shapes, step, "average" if average else "params")
    definition = ModelDefinition(config.model_at(found), vocab_size)  # positions may change while training
    params = definition.as_read(params)
    if record.get("tokenizer_fingerprint") != tokenizer.fingerprint:
        raise UserError(
            f"tokenizer {config.data.tokenizer!r} is not the one {folder} was trained with "
            f"({tokenizer.fingerprint}, then {record.get('tokenizer_fingerprint')}): bring the old file back"
        )
    return Model(config, definition, params, tokenizer, folder, found, average)
