"""Examples to the arrays that models eat: one row of several examples, which attention keeps apart by segment."""

from collections.abc import Sequence

import numpy as np

from lmarch.objectives.example import Example

_SOURCE = ("tokens", "positions", "segment_ids")
_DECODER = (*_SOURCE, "targets", "weights")
_STREAM = (*_DECODER, "block_positions", "prefix_lengths")
_Columns = dict[str, np.ndarray]


def lay_out_stream(
    examples: Sequence[Example], length: int, byte_lengths: np.ndarray, pad: int
) -> dict[str, np.ndarray]:
    """One row of T = `length` tokens of a decoder: of each example its inputs, then its targets as the decoder reads them.

    An example without `fed` is n + m tokens, the last of which predicts nothing; where just that one is too many, it is
    left out: T + 1 tokens of a text fill a row. Examples that fit no other way are an error of the caller.

    Args:
      examples: of one token or more each; targets may be missing.
      byte_lengths: [V], UTF-8 bytes of each id, 0 for special ids.
      pad: the id of padding.

    Returns:
      tokens: int32 [T].
      targets: int32 [T], 0 where nothing is scored.
      positions: int32 [T], from 0 in each example and in the padding, or what the example says.
      block_positions: int32 [T], the example's `fed_blocks`, else 0.
      segment_ids: int32 [T], the number of the example in the row; -1 for padding.
      prefix_lengths: int32 [T], how many tokens of the token's example are inputs; 0 for padding.
      weights: float32 [T], 1 where a target is scored.
      target_bytes: int32 [], UTF-8 bytes of the scored targets.
    """
    columns = [_stream(number, example) for number, example in enumerate(examples)]
    if examples and examples[-1].fed is None and _size(columns) == length + 1:
        columns[-1] = {name: column[:-1] for name, column in columns[-1].items()}
    row = _row(_STREAM, columns, length, pad)
    return row | {"target_bytes": _bytes(row, byte_lengths)}


def lay_out_pairs(
    examples: Sequence[Example], source_length: int, length: int, byte_lengths: np.ndarray, start: int, pad: int
) -> dict[str, np.ndarray]:
    """One row of S = `source_length` tokens for an encoder and T = `length` for its decoder, which reads targets shifted.

    Args:
      examples: without `fed`. Those that do not fit are an error of the caller.
      byte_lengths: [V], UTF-8 bytes of each id, 0 for special ids.
      start: the id that the decoder reads before an example's first target.
      pad: the id of padding.

    Returns:
      source_tokens, source_positions, source_segment_ids: int32 [S].
      tokens, targets, positions, segment_ids: int32 [T].
      weights: float32 [T]. target_bytes: int32 []. All as in `lay_out_stream`; a segment has one number on both sides.
    """
    assert all(example.fed is None for example in examples)
    source = [_side(number, example.inputs) for number, example in enumerate(examples)]
    decoder = [
        _side(number, np.concatenate([[start], example.targets])[:-1])
        | {"targets": example.targets, "weights": _weights(example)}
        for number, example in enumerate(examples)
    ]
    row = {f"source_{name}": column for name, column in _row(_SOURCE, source, source_length, pad).items()}
    row |= _row(_DECODER, decoder, length, pad)
    return row | {"target_bytes": _bytes(row, byte_lengths)}


def _stream(number: int, example: Example) -> _Columns:
    """One example as a decoder reads it."""
    inputs, targets, fed = example.inputs, example.targets, example.fed
    n, m = len(inputs), len(targets)
    assert n > 0, "an example without inputs has nothing to be said after"
    if fed is None:  # input n - 1 is answered by target 0, and the last target, or else input, by nothing
        columns = _side(number, np.concatenate([inputs, targets]))
        answered = np.arange(n - 1, n - 1 + m)
    else:
        assert example.fed_positions is not None
        columns = _side(number, np.concatenate([inputs, fed]))
        columns["positions"] = np.concatenate([np.arange(n), example.fed_positions])
        answered = np.arange(n, n + m)
    zeros = np.zeros(n + m, np.int32)
    blocks = zeros if example.fed_blocks is None else np.concatenate([zeros[:n], example.fed_blocks])
    columns |= {
        "targets": zeros.copy(),
        "weights": zeros.copy(),
        "block_positions": blocks,
        "prefix_lengths": zeros + n,
    }
    columns["targets"][answered], columns["weights"][answered] = targets, _weights(example)
    return columns


def _weights(example: Example) -> np.ndarray:
    return np.ones(len(example.targets)) if example.scored is None else example.scored


def _side(number: int, tokens: np.ndarray) -> _Columns:
    """Tokens that count their positions from 0, as segment `number`."""
    return {"tokens": tokens, "positions": np.arange(len(tokens)), "segment_ids": np.full(len(tokens), number)}


def _size(columns: Sequence[_Columns]) -> int:
    return sum(len(column["tokens"]) for column in columns)


def _row(names: Sequence[str], columns: Sequence[_Columns], length: int, pad: int) -> _Columns:
    """The columns of these names, one example after the other, padded to `length`."""
    left = length - _size(columns)
    assert left >= 0, f"{length - left} tokens in a row of {length}"
    padding = {"tokens": np.full(left, pad), "positions": np.arange(left), "segment_ids": np.full(left, -1)}
    row = {}
    for name in names:
        parts = [*(column[name] for column in columns), padding.get(name, np.zeros(left))]
        row[name] = np.concatenate(parts).astype(np.float32 if name == "weights" else np.int32)
    return row


def _bytes(row: _Columns, byte_lengths: np.ndarray) -> np.ndarray:
    return np.asarray(byte_lengths[row["targets"][row["weights"] > 0]].sum(), np.int32)
