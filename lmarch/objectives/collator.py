"""Examples to the arrays that models eat: rows of several examples each, which attention keeps apart by segment."""

import dataclasses

import numpy as np

from lmarch.objectives.batch import Batch
from lmarch.objectives.example import Examples, Vocabulary
from lmarch.objectives.ragged import counted, sums


@dataclasses.dataclass(frozen=True)
class Collator:
    """Examples to rows of an architecture."""

    architecture: str
    limits: tuple[int] | tuple[int, int]  # tokens of a stream, or of an encoder and of its decoder
    vocabulary: Vocabulary
    places_in_spans: bool

    def batch(self, examples: Examples, counts_B: np.ndarray, byte_lengths_V: np.ndarray) -> Batch[np.ndarray]:
        """B rows, of `counts_B` examples each; see `collate_stream` and `collate_pairs`."""
        words = self.vocabulary
        if self.architecture == "encoder_decoder":
            return collate_pairs(
                examples, counts_B, self.limits[0], self.limits[-1], byte_lengths_V, start=words.bos, pad=words.pad
            )
        made = collate_stream(examples, counts_B, self.limits[0], byte_lengths_V, words.pad)
        if self.architecture == "causal_decoder":
            made = made._replace(prefix_lengths=None)
        return made if self.places_in_spans else made._replace(block_positions=None)


def collate_stream(
    examples: Examples, counts_B: np.ndarray, length: int, byte_lengths_V: np.ndarray, pad: int
) -> Batch[np.ndarray]:
    """B rows of T = `length` tokens of a decoder: of each example its inputs, then its targets as the decoder reads them.

    An example without `fed` is n + m tokens, the last of which predicts nothing; where just that one is too many, it is
    left out: T + 1 tokens of a text fill a row. Examples that fit no other way are an error of the caller.

    Args:
      examples: of one input or more each; targets may be missing.
      counts_B: how many of them each row holds, in order.
      byte_lengths_V: UTF-8 bytes of each id, 0 for special ids.
      pad: the id of padding.

    Returns:
      All that a decoder may need. Positions count from 0 in each example and in the padding, or are what the example says;
      targets are 0 where nothing is scored, block positions where there is no `fed_blocks`, prefix lengths in padding.
    """
    assert (examples.input_lengths > 0).all(), "an example without inputs has nothing to be said after"
    width = length + (examples.fed is None)
    cells = _Cells.of(examples.input_lengths + examples.target_lengths, counts_B, length, width)
    prefixes = cells.spread(examples.input_lengths)
    is_input = cells.index < prefixes
    is_said = cells.is_taken & ~is_input
    is_answered = is_said
    if examples.fed is None:  # the first target is said after the last input
        is_answered = np.zeros_like(is_said)
        is_answered[:, :-1] = is_said[:, 1:]
    tokens = np.full(is_said.shape, pad, np.int32)
    tokens[is_input] = examples.inputs
    tokens[is_said] = examples.targets if examples.fed is None else examples.fed
    positions, blocks = cells.index, np.zeros_like(tokens)
    if examples.fed_positions is not None:
        positions[is_said] = examples.fed_positions
    if examples.fed_blocks is not None:
        blocks[is_said] = examples.fed_blocks
    targets, weights = _answers(examples, is_answered)

    def rows(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values[:, :length])

    targets_BT, weights_BT = rows(targets), rows(weights)
    return Batch(
        tokens=rows(tokens),
        targets=targets_BT,
        positions=rows(positions),
        segment_ids=rows(cells.segments),
        weights=weights_BT,
        target_bytes=_target_bytes(targets_BT, weights_BT, byte_lengths_V),
        prefix_lengths=rows(prefixes),
        block_positions=rows(blocks),
    )


def collate_pairs(
    examples: Examples,
    counts_B: np.ndarray,
    source_length: int,
    length: int,
    byte_lengths_V: np.ndarray,
    *,
    start: int,
    pad: int,
) -> Batch[np.ndarray]:
    """B rows of S = `source_length` tokens for an encoder and T = `length` for its decoder, which reads targets shifted.

    Args:
      examples: without `fed`. Those that do not fit are an error of the caller.
      counts_B: how many of them each row holds, in order.
      byte_lengths_V: UTF-8 bytes of each id, 0 for special ids.
      start: the id that the decoder reads before an example's first target.
      pad: the id of padding.

    Returns:
      Both sides, as in `collate_stream`; a segment has one number on both.
    """
    assert examples.fed is None
    source = _Cells.of(examples.input_lengths, counts_B, source_length, source_length)
    source_tokens = np.full(source.index.shape, pad, np.int32)
    source_tokens[source.is_taken] = examples.inputs
    cells = _Cells.of(examples.target_lengths, counts_B, length, length)
    targets, weights = _answers(examples, cells.is_taken)
    tokens = np.full(targets.shape, pad, np.int32)
    tokens[:, 1:][cells.is_taken[:, 1:]] = targets[:, :-1][cells.is_taken[:, 1:]]
    tokens[cells.is_taken & (cells.index == 0)] = start
    return Batch(
        tokens=tokens,
        targets=targets,
        positions=cells.index,
        segment_ids=cells.segments,
        weights=weights,
        target_bytes=_target_bytes(targets, weights, byte_lengths_V),
        source_tokens=source_tokens,
        source_positions=source.index,
        source_segment_ids=source.segments,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of B rows of W."""

    sizes_D: np.ndarray  # int, how many cells each example takes, one after the other
    is_taken: np.ndarray  # bool [B, W]; the other ones are padding at the end of their row
    index: np.ndarray  # int32 [B, W], of each cell in its example, or in the padding
    segments: np.ndarray  # int32 [B, W], the number of its example in the row; -1 for padding

    @classmethod
    def of(cls, sizes_D: np.ndarray, counts_B: np.ndarray, length: int, width: int) -> "_Cells":
        """Of rows of `width` cells, the first `length` of which are used."""
        used_B = sums(sizes_D, counts_B)
        assert (used_B <= width).all(), f"{used_B.max()} tokens in a row of {length}"
        index = np.arange(width, dtype=np.int32) - used_B.astype(np.int32)[:, None]
        is_taken, segments = index < 0, np.full(index.shape, -1, np.int32)
        index[is_taken] = counted(sizes_D)
        segments[is_taken] = np.repeat(counted(counts_B), sizes_D)
        return cls(sizes_D, is_taken, index, segments)

    def spread(self, values_D: np.ndarray) -> np.ndarray:
        """int32 [B, W]: what is known of the example of each cell; 0 for padding."""
        made = np.zeros(self.index.shape, np.int32)
        made[self.is_taken] = np.repeat(values_D.astype(np.int32), self.sizes_D)
        return made


def _answers(examples: Examples, is_answered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets and weights of the cells after which something is to be said."""
    targets, weights = np.zeros(is_answered.shape, np.int32), is_answered.astype(np.float32)
    targets[is_answered] = examples.targets
    if examples.scored is not None:
        weights[is_answered] = examples.scored
    return targets, weights


def _target_bytes(targets_BT: np.ndarray, weights_BT: np.ndarray, byte_lengths_V: np.ndarray) -> np.ndarray:
    """int32 [B]: UTF-8 bytes of the scored targets."""
    return np.where(weights_BT > 0, byte_lengths_V[targets_BT], 0).sum(axis=1, dtype=np.int32)
