"""What a config asks of its text, and what it may not: an objective, how long rows are, and the feed that makes them."""

import dataclasses
import math

import numpy as np

from lmarch.attention.selection import SELECTIONS
from lmarch.config import Config
from lmarch.data.documents import Split
from lmarch.data.feed import Feed
from lmarch.data.landmarks import Landmarks, landmark_block
from lmarch.data.material import material
from lmarch.data.packing import Budget
from lmarch.data.problem_rows import ProblemRows
from lmarch.data.questions import Questions
from lmarch.data.tokenizers import Tokenizer
from lmarch.errors import UserError
from lmarch.objectives import Collator, Objective, Vocabulary, objective_for
from lmarch.positions import SAMPLERS
from lmarch.registry import format_variant, variant_name
from lmarch.tasks import TASKS, Task
from lmarch.tasks.task import require_length


@dataclasses.dataclass(frozen=True)
class FeedPlan:
    """What a config asks of its text: an objective that is defined for the architecture, and how long rows are."""

    config: Config
    objective: Objective
    limits: tuple[int] | tuple[int, int]  # tokens of a row: of its one stream, or of encoder and decoder

    @property
    def budget(self) -> Budget | None:
        """What rows of text are packed by; none: language modelling, which takes all of a row."""
        return None if self.objective.overlapping else Budget(self.objective, self.limits)

    @property
    def all_causal(self) -> bool:
        """Whether rows are language modelling over all tokens of a causal decoder."""
        plain = objective_for("causal_lm", "causal_decoder")
        return self.config.model.architecture == "causal_decoder" and self.objective == plain

    def vocabulary_size(self, tokenizer: Tokenizer) -> int:
        """Rows of the model's embedding: the tokenizer's ids, the objective's and the landmark, a multiple of 8."""
        special = len(self.objective.special_tokens()) + (self.landmark_block is not None)
        return -(-(tokenizer.vocab_size + special) // 8) * 8

    @property
    def landmark_block(self) -> int | None:
        return landmark_block(self.config.model)

    def landmarks(self, tokenizer: Tokenizer) -> Landmarks | None:
        """Those that the model is trained with, behind the tokenizer's ids; none: it knows none."""
        block = self.landmark_block
        return None if block is None else Landmarks(block, tokenizer.vocab_size)

    @property
    def text_length(self) -> int:
        """How many tokens of the text a row feeds, for language modelling: all, or what landmarks leave."""
        length, block = self.config.row_length, self.landmark_block
        return length if block is None else Landmarks(block, -1).room(length)

    def feed(self, tokenizer: Tokenizer, split: Split = "train") -> Feed:
        """Of the rows of a split. What is trained on some text is validated on text alone: bits per byte stay comparable."""
        data, size = self.config.data, self.vocabulary_size(tokenizer)
        words = Vocabulary(tokenizer.bos, tokenizer.eos, tokenizer.pad, first_special=tokenizer.vocab_size)
        collator = Collator(self.config.model.architecture, self.limits, words, self.objective.places_in_spans)
        with_problems = split == "train" or math.isclose(sum(self.shares), 1)
        return Feed(
            np.pad(tokenizer.byte_lengths, (0, size - tokenizer.vocab_size)),
            mask_documents=data.mask_documents,
            restart_positions=data.restart_positions,
            sampler=SAMPLERS.build(data.position_sampler) if data.position_sampler else None,
            questions=None if self.all_causal else Questions(self.objective, collator),
            landmarks=self.landmarks(tokenizer),
            problems=self._problem_rows(tokenizer, split, collator) if with_problems else None,
        )

    @property
    def reach(self) -> int:
        """How many positions the rows of training are drawn from."""
        sampler = self.config.data.position_sampler
        return SAMPLERS.build(sampler).reach() if sampler else self.config.row_length

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(TASKS.build(one["task"]) for one in self.config.data.tasks)

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(one["share"] for one in self.config.data.tasks)

    def _problem_rows(self, tokenizer: Tokenizer, split: Split, collator: Collator) -> ProblemRows | None:
        if not self.tasks:
            return None
        made_of = material(self.config.data, split, tokenizer)
        for task in self.tasks:
            task.check(made_of, min(self.limits))
        return ProblemRows(self.tasks, self.shares, made_of, collator)


def make_plan(config: Config) -> FeedPlan:
    """Needs no text.

    Raises:
      UserError: an objective that is not defined for the architecture, rows that its examples do not fit, data options
        that make no sense for it.
    """
    objective = objective_for(config.objective, config.model.architecture)
    plan = FeedPlan(config, objective, _limits(config, objective))
    given, data, blocks = format_variant(config.objective), config.data, config.model.block_positions
    if not plan.all_causal and not (data.mask_documents and data.restart_positions):
        raise UserError(
            f"{given} asks about one document at a time: config.data.mask_documents and restart_positions must be true"
        )
    if objective.places_in_spans and blocks == "none":
        raise UserError(f"{given} has two positions a token: set config.model.block_positions to rotary or learned")
    if blocks != "none" and not objective.places_in_spans:
        raise UserError(f"config.model.block_positions={blocks} has no use: {given} has no spans")
    if objective.places_in_spans and data.position_sampler:
        raise UserError(f"{given} has positions of its own: leave config.data.position_sampler out")
    _check_selections(config)
    if plan.landmark_block is not None:
        _check_landmarks(plan)
    for task in plan.tasks:
        require_length(task, min(plan.limits))
    return plan


def _check_selections(config: Config) -> None:
    """What cannot be trained: rows hold several documents, and Quest selects only while it decodes."""
    for layer in config.model.each_layer:
        selection = layer["selection"] and SELECTIONS.build(layer["selection"])
        if selection and selection.in_blocks and selection.landmark_block:
            raise UserError("landmarks are trained with all blocks of a row: leave top out, and give it at evaluation")
        if selection and selection.in_blocks:
            raise UserError(
                f"config.model.selection={format_variant(layer['selection'])} counts blocks of one text, and rows of training "
                "hold several: train without it and evaluate with it (lmarch eval --selections, model.with_selection)"
            )
    windows = [variant_name(layer["window"]) for layer in config.model.each_layer]
    if config.data.position_sampler and "parallel" in windows:
        raise UserError("config.data.position_sampler and window parallel both give tokens positions: leave one out")


def _check_landmarks(plan: FeedPlan) -> None:
    config, block = plan.config, plan.landmark_block
    if not plan.all_causal:
        raise UserError(
            f"selection landmark puts tokens into the text of a causal decoder, all of whose tokens are scored: "
            f"{config.model.architecture} with {format_variant(config.objective)} has no place for them"
        )
    if config.data.position_sampler:
        raise UserError(
            f"config.data.position_sampler={format_variant(config.data.position_sampler)} moves tokens apart, and blocks "
            "of landmarks are counted by them: leave it out"
        )
    if config.data.tasks:
        raise UserError("config.data.tasks: rows of problems have no landmarks: train on text alone")
    if config.row_length <= (block or 0):
        raise UserError(f"config.data.row_length={config.row_length} has no landmark: block={block} must be below it")


def _limits(config: Config, objective: Objective) -> tuple[int] | tuple[int, int]:
    if config.model.architecture != "encoder_decoder":
        return (config.row_length,)
    source, given = config.row_length, format_variant(config.objective)
    if source < 2:
        raise UserError(f"config.data.row_length={source} must be above 1: a text is cut into inputs and targets")
    if objective.overlapping:
        needed = source
    else:  # the longest text whose inputs are sure to fit
        roomy = Budget(objective, (source, 8 * source))
        needed = objective.largest(max(2, roomy.longest_piece((0, 0), 8 * source))).targets
        needed = min(needed, config.model.trained_length)  # texts are cut to what fits both sides
    length = config.data.target_length or needed
    if length < (needed if objective.overlapping else objective.largest(2).targets):
        raise UserError(
            f"config.data.target_length={length} is too short: {given} asks for up to {needed} targets a row of {source}"
        )
    if length > config.model.trained_length:
        raise UserError(
            f"{given} gives the decoder rows of {length} tokens, past config.model.trained_length="
            f"{config.model.trained_length}: raise it, or shorten config.data.row_length={source}"
        )
    return (source, length)
