"""Packed rows to batches: a pure function of rows, their numbers and a seed, the same on every host."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lmarch.data.assembly import assemble, sample_positions
from lmarch.data.landmarks import Landmarks
from lmarch.data.problem_rows import ProblemRows
from lmarch.data.questions import Questions
from lmarch.objectives import Batch, Draws
from lmarch.positions import PositionSampler

# The seed, one of these and a row's number seed what is drawn for it, so that no two draws are the same one.
_OF_TEXT, _OF_OBJECTIVE, _OF_SOURCE, _OF_PROBLEMS, _OF_HELD_OUT_PROBLEMS = range(5)


@dataclasses.dataclass(frozen=True, eq=False)
class Feed:
    """Rows to batches."""

    byte_lengths: np.ndarray  # [V], of the tokenizer's ids and then of the objective's, which have none
    mask_documents: bool = True
    restart_positions: bool = True
    sampler: PositionSampler | None = None
    questions: Questions | None = None  # none: all of a causal decoder's tokens, the case that needs no documents
    landmarks: Landmarks | None = None  # that stand in such rows
    problems: ProblemRows | None = None  # of problems that take the place of some rows

    def __call__(
        self,
        tokens_BW: np.ndarray,
        documents_BW: np.ndarray,
        seed: int,
        numbers_B: Sequence[int] | np.ndarray,
        sample: bool,
    ) -> Batch[np.ndarray]:
        """A batch of B rows of W tokens; row b depends on (seed, numbers_B[b]) and its own text alone.

        Args:
          documents_BW: the document of each token; -1 for padding.
          sample: whether a position sampler is used.
        """
        numbers_B = np.asarray(numbers_B)
        if self.questions is None:
            made = self._assembled(tokens_BW, documents_BW)
        else:
            draws_B = Draws.of_rows(seed, _OF_OBJECTIVE, numbers_B)
            made = self.questions.batch(tokens_BW, documents_BW, self.byte_lengths, draws_B)
        if self.problems is not None:
            stream = _OF_PROBLEMS if self.problems.material.split == "train" else _OF_HELD_OUT_PROBLEMS
            self.problems.put_into(made, self.byte_lengths, (seed, stream), numbers_B)
        if self.sampler is not None and sample:
            return self._sampled(made, seed, numbers_B)
        return made._replace(positions=None, source_positions=None) if self.counts else made

    @property
    def counts(self) -> bool:
        """Whether positions, if they are not drawn, are the ranks of tokens in their segments.

        The model then counts by itself, and knows so when it is compiled: positions that are given could be any. (Those of
        padding may be others than its ranks: nothing depends on them.)
        """
        of_objective = self.questions is not None and self.questions.collator.places_in_spans
        return self.mask_documents == self.restart_positions and not of_objective

    def _assembled(self, tokens_BW: np.ndarray, documents_BW: np.ndarray) -> Batch[np.ndarray]:
        options = self.byte_lengths, self.mask_documents, self.restart_positions
        if self.landmarks is None:
            return assemble(tokens_BW, documents_BW, *options)
        # Rows are inputs and a last target, with the inputs' landmarks: each is of the document of the token before it.
        length = self.landmarks.length(tokens_BW.shape[1] - 1) + 1
        tokens, documents = self.landmarks.inserted(tokens_BW, length), self.landmarks.spread(documents_BW, length)
        made = assemble(tokens, documents, *options)
        return made._replace(weights=made.weights * (made.targets != self.landmarks.token))

    def _sampled(self, made: Batch[np.ndarray], seed: int, numbers_B: np.ndarray) -> Batch[np.ndarray]:
        """The batch at positions that are drawn, those of a source apart from those of a text."""
        assert self.sampler is not None
        assert made.positions is not None
        made = made._replace(positions=sample_positions(made.positions, self.sampler, (seed, _OF_TEXT), numbers_B))
        if made.source_positions is None:
            return made
        source = sample_positions(made.source_positions, self.sampler, (seed, _OF_SOURCE), numbers_B)
        return made._replace(source_positions=source)
