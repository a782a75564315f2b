"""Rows of tokens to the arrays a model is fed with."""

from collections.abc import Sequence

import numpy as np

from lmarch.objectives import Batch
from lmarch.positions import PositionSampler


def assemble(
    tokens: np.ndarray, documents: np.ndarray, byte_lengths: np.ndarray, mask_documents: bool, restart_positions: bool
) -> Batch[np.ndarray]:
    """A batch of causal language modelling from B packed rows of T + 1 tokens.

    Args:
      tokens: [B, T + 1].
      documents: [B, T + 1], the document of each token; -1 for padding.
      byte_lengths: [V], UTF-8 bytes of each id.
      mask_documents: number the documents of a row, so that attention can stay inside one; else a row is one segment.
      restart_positions: count positions from the start of a document's part in the row; else from the row's start.

    Returns:
      Rows whose targets are the next tokens. They are scored where they are of their token's document: bos and padding
      never are. Positions are in [0, T).
    """
    inputs, targets = tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)
    owners = documents[:, :-1]
    column = np.arange(owners.shape[1], dtype=np.int32)
    starts = np.zeros(owners.shape, bool)
    starts[:, 1:] = owners[:, 1:] != owners[:, :-1]
    positions = np.broadcast_to(column, owners.shape)
    if restart_positions:
        positions = positions - np.maximum.accumulate(np.where(starts, column, 0), axis=1)
    segments = np.cumsum(starts, axis=1, dtype=np.int32) if mask_documents else np.zeros(owners.shape, np.int32)
    scored = (owners == documents[:, 1:]) & (owners >= 0)
    return Batch(
        tokens=inputs,
        targets=targets,
        positions=np.array(positions, np.int32),
        segment_ids=np.where(owners >= 0, segments, np.int32(-1)),
        weights=scored.astype(np.float32),
        target_bytes=np.where(scored, byte_lengths[targets], 0).sum(axis=1, dtype=np.int32),
    )


def sample_positions(
    positions: np.ndarray, sampler: PositionSampler, seed: tuple[int, ...], numbers: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The positions [B, T] of `assemble`, drawn anew for every run that counts upwards: a document, or a whole row.

    Row b depends on (seed, numbers[b]) alone.
    """
    sampled = np.empty_like(positions)
    for row, (counted, number) in enumerate(zip(positions, numbers, strict=True)):
        rng = np.random.default_rng((*seed, int(number)))
        starts = np.flatnonzero(np.diff(counted, prepend=counted[0] + 1) != 1)
        for start, end in zip(starts, [*starts[1:], counted.size], strict=True):
            sampled[row, start:end] = sampler.sample(end - start, rng)
    return sampled
