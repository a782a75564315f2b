"""Random numbers by counting: what is drawn for a text depends on its own key alone, not on what is drawn beside it."""

import dataclasses

import numpy as np

from lmarch.objectives.ragged import counted, starts

_STEP = np.uint64(0x9E3779B97F4A7C15)
_RANDOM_BITS = 40  # of a key that things are sorted by; the bits above are the number of their piece


def _words(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """uint64: words number `counters` of SplitMix64 generators (Steele, Lea & Flood 2014) whose states are `keys`."""
    word = (counters.astype(np.uint64) + np.uint64(1)) * _STEP
    word = word + keys
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return word


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """What is drawn for D texts, or rows. As a key of JAX, one is either split or drawn from, and that once."""

    keys_D: np.ndarray  # uint64 [D]

    @classmethod
    def of_rows(cls, seed: int, stream: int, numbers_B: np.ndarray) -> "Draws":
        """Of rows by their numbers; `stream` says what for, so that no two uses of a row's number meet."""
        return cls(_words(_words(np.array([seed], np.uint64), np.array([stream])), np.asarray(numbers_B)))

    def at(self, which_D: np.ndarray, numbers_D: np.ndarray) -> "Draws":
        """Of D things, numbered by `numbers_D` inside the row `which_D` that they are in."""
        return Draws(_words(self.keys_D[which_D], numbers_D))

    def joined(self, others: "Draws") -> "Draws":
        """Of these texts and then of the others."""
        return Draws(np.concatenate([self.keys_D, others.keys_D]))

    def split(self, count: int) -> tuple["Draws", ...]:
        """So many independent ones of the same texts."""
        return tuple(map(Draws, _words(self.keys_D, np.arange(count)[:, None])))

    def fractions(self) -> np.ndarray:
        """float64 [D], uniform in [0, 1)."""
        return _fractions(_words(self.keys_D, np.zeros(1, int)))

    def integers(self, below_D: np.ndarray) -> np.ndarray:
        """int [D], uniform in [0, below)."""
        return (self.fractions() * below_D).astype(np.int64)

    def each_of(self, lengths_D: np.ndarray) -> np.ndarray:
        """float64 [sum of lengths], uniform in [0, 1): as many for each text as its length says."""
        return _fractions(self._words_each(lengths_D))

    def shuffled(self, lengths_D: np.ndarray) -> np.ndarray:
        """int [sum of lengths]: the places of a flat array, those of each piece in an order drawn uniformly.

        Equal keys (of two things: once in 2**40) keep their order.
        """
        return np.argsort(_sortable(self._words_each(lengths_D), lengths_D), kind="stable")

    def chosen(self, lengths_D: np.ndarray, counts_D: np.ndarray, *, with_first: bool = False) -> np.ndarray:
        """bool [sum of lengths]: `counts` things of each piece, every subset of that size being equally likely.

        Args:
          counts_D: 1 or more, and at most as many as the piece has.
          with_first: of the subsets that hold the first thing of the piece.
        """
        words, begins_D = self._words_each(lengths_D), starts(lengths_D)
        if with_first:
            words[begins_D] = 0
        keys = _sortable(words, lengths_D)
        made = keys <= np.repeat(np.sort(keys)[begins_D + counts_D - 1], lengths_D)
        if np.count_nonzero(made) > counts_D.sum():  # equal keys: those in front are chosen
            made[:] = False
            made[np.argsort(keys, kind="stable")[counted(lengths_D) < np.repeat(counts_D, lengths_D)]] = True
        return made

    def _words_each(self, lengths_D: np.ndarray) -> np.ndarray:
        return _words(np.repeat(self.keys_D, lengths_D), counted(lengths_D))


def _sortable(words: np.ndarray, lengths_D: np.ndarray) -> np.ndarray:
    """Keys that order all pieces one after the other, and what is in each by its words."""
    pieces_D = np.arange(len(lengths_D), dtype=np.uint64) << np.uint64(_RANDOM_BITS)
    return np.repeat(pieces_D, lengths_D) | words >> np.uint64(64 - _RANDOM_BITS)


def _fractions(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(11)) * 2.0**-53
