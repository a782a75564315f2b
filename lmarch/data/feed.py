"""What becomes of packed rows before they reach a model: an objective's examples, laid out for an architecture.

A feed is a pure function of rows, their numbers and a seed: the same row asks the same question on every host.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lmarch.config import Config
from lmarch.data.assembly import assemble, sample_positions
from lmarch.data.packing import Budget
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.objectives import Example, Objective, Vocabulary, lay_out_pairs, lay_out_stream, objective_for
from lmarch.positions import SAMPLERS, PositionSampler
from lmarch.registry import format_variant

Batch = dict[str, np.ndarray]
"""Rows first: the arrays of `assemble`, and `prefix_lengths`, `block_positions` or `source_*` where a model wants them."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows cut into documents, each asked about by an objective."""

    objective: Objective
    architecture: str
    limits: tuple[int] | tuple[int, int]  # tokens of a stream, or of an encoder and of its decoder
    vocabulary: Vocabulary

    def row(
        self, tokens: np.ndarray, documents: np.ndarray, byte_lengths: np.ndarray, rng: np.random.Generator
    ) -> Batch:
        """One row [W] laid out for the architecture."""
        borders = np.flatnonzero(np.diff(documents)) + 1
        pieces = [
            piece.astype(np.int32)
            for piece, owner in zip(np.split(tokens, borders), documents[[0, *borders]], strict=True)
            if owner >= 0
        ]
        examples = [self._example(piece, rng) for piece in pieces]
        words = self.vocabulary
        if self.architecture == "encoder_decoder":
            return lay_out_pairs(
                examples, self.limits[0], self.limits[-1], byte_lengths, start=words.bos, pad=words.pad
            )
        made = lay_out_stream(examples, self.limits[0], byte_lengths, words.pad)
        unwanted = {"prefix_lengths"} if self.architecture == "causal_decoder" else set()
        unwanted |= set() if self.objective.places_in_spans else {"block_positions"}
        return {name: column for name, column in made.items() if name not in unwanted}

    def _example(self, piece: np.ndarray, rng: np.random.Generator) -> Example:
        if len(piece) < 2:  # nothing follows a single token
            return Example(piece, piece[:0])
        return self.objective.example(piece, self.vocabulary, rng)


@dataclasses.dataclass(frozen=True, eq=False)
class Feed:
    """Rows to batches."""

    byte_lengths: np.ndarray  # [V], of the tokenizer's ids and then of the objective's, which have none
    mask_documents: bool = True
    restart_positions: bool = True
    sampler: PositionSampler | None = None
    examples: Examples | None = None  # none: all of a causal decoder's tokens, the one case that needs no loop

    def __call__(
        self, tokens: np.ndarray, documents: np.ndarray, seed: int, numbers: Sequence[int] | np.ndarray, sample: bool
    ) -> Batch:
        """A batch of B rows [B, W]; row b depends on (seed, numbers[b]) and its own text alone.

        Args:
          sample: whether a position sampler is used.
        """
        if self.examples is None:
            made = assemble(tokens, documents, self.byte_lengths, self.mask_documents, self.restart_positions)
        else:
            # The 1 keeps an objective's draws apart from those of a position sampler.
            generators = [np.random.default_rng((seed, int(number), 1)) for number in numbers]
            rows = [
                self.examples.row(row_tokens, row_documents, self.byte_lengths, rng)
                for row_tokens, row_documents, rng in zip(tokens, documents, generators, strict=True)
            ]
            made = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        if self.sampler is not None and sample:
            for name in {"positions", "source_positions"} & made.keys():
                made[name] = sample_positions(made[name], self.sampler, seed, numbers)
        return made


def vocabulary_size(config: Config, tokenizer: Tokenizer) -> int:
    """Rows of the model's embedding: the tokenizer's ids and the objective's, a multiple of 8."""
    specials = len(objective_for(config.objective, config.model.architecture).special_tokens())
    return -(-(tokenizer.vocab_size + specials) // 8) * 8


def row_limits(config: Config) -> tuple[int] | tuple[int, int]:
    """The tokens of a row as the model reads it: of its one stream, or of encoder and decoder.

    Raises:
      UserError: an objective that is not defined for the architecture, a decoder too short for it.
    """
    objective = objective_for(config.objective, config.model.architecture)
    if config.model.architecture != "encoder_decoder":
        return (config.row_length,)
    source = config.row_length
    if objective.overlapping:
        needed = source
    else:
        text = Budget(objective, (source, 2 * source)).longest_piece((0, 0), source)
        needed = objective.largest(max(text, 2)).targets
    length = config.data.target_length or needed
    given = format_variant(config.objective)
    if length < needed and objective.overlapping:
        raise UserError(
            f"config.data.target_length={length} is too short: {given} asks for up to {needed} targets a row of {source}"
        )
    if length > config.model.trained_length:
        raise UserError(
            f"{given} gives the decoder rows of {length} tokens, past config.model.trained_length="
            f"{config.model.trained_length}: raise it, or shorten config.data.row_length={source}"
        )
    return (source, length)


def check_feed(config: Config) -> None:
    """Refuses combinations of objective, architecture and data options that cannot be fed; needs no text."""
    row_limits(config)
    objective = objective_for(config.objective, config.model.architecture)
    given, data = format_variant(config.objective), config.data
    if not _all_causal(config) and not (data.mask_documents and data.restart_positions):
        raise UserError(
            f"{given} asks about one document at a time: config.data.mask_documents and restart_positions must be true"
        )
    if objective.places_in_spans and config.model.block_positions == "none":
        raise UserError(f"{given} has two positions a token: set config.model.block_positions to rotary or learned")
    if config.model.block_positions != "none" and not objective.places_in_spans:
        raise UserError(f"config.model.block_positions={config.model.block_positions} has no use: {given} has no spans")
    if objective.places_in_spans and data.position_sampler:
        raise UserError(f"{given} has positions of its own: leave config.data.position_sampler out")


def make_feed(config: Config, tokenizer: Tokenizer) -> Feed:
    """The feed of a run; raises UserError for what `check_feed` refuses."""
    check_feed(config)
    data, size = config.data, vocabulary_size(config, tokenizer)
    words = Vocabulary(tokenizer.bos, tokenizer.eos, tokenizer.pad, first_special=tokenizer.vocab_size)
    objective = objective_for(config.objective, config.model.architecture)
    examples = Examples(objective, config.model.architecture, row_limits(config), words)
    return Feed(
        np.pad(tokenizer.byte_lengths, (0, size - tokenizer.vocab_size)),
        data.mask_documents,
        data.restart_positions,
        SAMPLERS.build(data.position_sampler) if data.position_sampler else None,
        None if _all_causal(config) else examples,
    )


def row_budget(config: Config) -> Budget | None:
    """What rows of text are packed by; none: language modelling, which takes all of a row."""
    objective = objective_for(config.objective, config.model.architecture)
    return None if objective.overlapping else Budget(objective, row_limits(config))


def _all_causal(config: Config) -> bool:
    """Whether rows are language modelling over all tokens of a causal decoder."""
    objective = objective_for(config.objective, config.model.architecture)
    return config.model.architecture == "causal_decoder" and objective == objective_for("causal_lm", "causal_decoder")
