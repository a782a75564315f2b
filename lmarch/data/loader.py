"""Packed rows to batches: seeded and seekable for training, in order for validation.

Both take a process's number and their count, and give that process its contiguous part of every global batch.
"""

from collections.abc import Generator, Iterator

import numpy as np
from grain.experimental import index_shuffle

from lmarch.data.feed import Feed
from lmarch.data.packing import Rows
from lmarch.data.prefetch import prefetched
from lmarch.errors import UserError
from lmarch.objectives import Batch


class Loader:
    """Batch n is a pure function of (rows, seed, n): a run that goes on needs to remember nothing but n."""

    def __init__(
        self,
        rows: Rows,
        batch_rows: int,
        seed: int,
        feed: Feed,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """The rows are shuffled anew in every epoch; a batch may span two epochs, or many if there are few rows.

        Args:
          batch_rows: rows of a batch over all processes.
          feed: makes batches of rows.

        Raises:
          UserError: `batch_rows` does not divide among the processes, or the seed is not in [0, 2**32).
        """
        if not 0 <= seed < 2**32:
            raise UserError(f"config.data.seed={seed} must be in [0, 2**32)")
        self._rows, self._batch_rows = rows, batch_rows
        self._part = _part(batch_rows, process_index, process_count)
        self._feed, self._seed = feed, seed
        # That of grain.MapDataset.range(...).seed(seed).shuffle(), whose order `_row` gives in half the time.
        self._shuffle_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])

    def batch(self, n: int) -> Batch[np.ndarray]:
        """Batch `n` >= 0: the rows at places [n * batch_rows, (n + 1) * batch_rows) of the shuffled epochs."""
        places = range(n * self._batch_rows, (n + 1) * self._batch_rows)[self._part]
        indices = [self._row(place) for place in places]
        return self._feed(self._rows.tokens[indices], self._rows.documents[indices], self._seed, places, sample=True)

    def _row(self, place: int) -> int:
        """The row at a place of the shuffled epochs, one after the other."""
        count = len(self._rows.tokens)
        epoch, index = divmod(place, count)
        seed = (self._shuffle_seed + epoch) % 2**32
        return index_shuffle(index, max_index=count - 1, seed=seed, rounds=4)

    def iterate(self, start: int, prefetch: int, processes: int = 0) -> Generator[Batch[np.ndarray], None, None]:
        """Batch `start`, `start` + 1, ... without end, the same for any number of processes; to be closed after use.

        Args:
          prefetch: how many are made ahead.
          processes: how many make them; 0: a thread.
        """
        return prefetched(self.batch, start, prefetch, processes)


def sequential_batches(
    rows: Rows,
    batch_rows: int,
    feed: Feed,
    *,
    limit: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch[np.ndarray]]:
    """`limit` rows spread evenly over all of them (default: all), in order, once. Fill-up rows have weight 0.

    What is drawn is always the same; positions are sampled for a sampler that evaluates at sampled ones.

    Raises:
      UserError: `batch_rows` does not divide among the processes.
    """
    part = _part(batch_rows, process_index, process_count)
    count = min(limit or len(rows.tokens), len(rows.tokens))
    chosen = np.linspace(0, len(rows.tokens) - 1, count).astype(int)  # the first ones would be a document or two
    for start in range(0, count, batch_rows):
        wanted = np.arange(start, start + batch_rows)[part]
        indices = chosen[np.minimum(wanted, count - 1)]
        documents = np.where(wanted[:, None] < count, rows.documents[indices], -1)
        sample = feed.sampler is not None and feed.sampler.at_evaluation
        yield feed(rows.tokens[indices], documents, 0, indices, sample)


def _part(batch_rows: int, process_index: int, process_count: int) -> slice:
    """The rows of a global batch that belong to one process."""
    if batch_rows % process_count:
        raise UserError(f"config.data.batch_rows={batch_rows} must be a multiple of the {process_count} processes")
    size = batch_rows // process_count
    return slice(process_index * size, (process_index + 1) * size)
