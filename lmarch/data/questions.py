"""Rows of text, cut into documents about each of which an objective asks."""

import dataclasses

import numpy as np

from lmarch.objectives import Batch, Collator, Draws, Objective, Texts


@dataclasses.dataclass(frozen=True)
class Questions:
    """An objective's, laid out for an architecture."""

    objective: Objective
    collator: Collator

    def batch(
        self, tokens_BW: np.ndarray, documents_BW: np.ndarray, byte_lengths_V: np.ndarray, draws_B: Draws
    ) -> Batch[np.ndarray]:
        """B rows of W tokens, each of a document or (-1) of none, as a batch; row b depends on its text and its draws alone."""
        is_text_BW = documents_BW >= 0
        begins_BW = np.ones(documents_BW.shape, bool)
        begins_BW[:, 1:] = documents_BW[:, 1:] != documents_BW[:, :-1]
        row_D, column_D = np.nonzero(begins_BW & is_text_BW)
        tokens = tokens_BW[is_text_BW].astype(np.int32)
        lengths_D = np.diff(np.flatnonzero(begins_BW[is_text_BW]), append=len(tokens))

        asked_D = lengths_D > 1  # nothing follows a single token
        examples = self.objective.examples(
            Texts(tokens[np.repeat(asked_D, lengths_D)], lengths_D[asked_D]),
            self.collator.vocabulary,
            draws_B.at(row_D[asked_D], column_D[asked_D]),
        )
        if not asked_D.all():
            examples = examples.with_unasked(tokens[np.repeat(~asked_D, lengths_D)], np.cumsum(asked_D)[~asked_D])
        return self.collator.batch(examples, np.bincount(row_D, minlength=len(tokens_BW)), byte_lengths_V)
