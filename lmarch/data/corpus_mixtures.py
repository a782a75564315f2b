"""`mixture:3 sotu + 1 text:books/*.txt`: several corpora, each with its share of the tokens.

An epoch is as short as it can be while every row of every corpus is in it: the corpus that is largest for its share is gone
through once, the others as often as their shares ask for, the last time perhaps in part. So nothing is left out, and what is
repeated is known.
"""

import re
from typing import NamedTuple

from lmarch.errors import UserError

KIND = "mixture:"
_WRITTEN = re.compile(r"(\d+\.?\d*|\.\d+)\s+(\S.*)")


class Ingredient(NamedTuple):
    corpus: str
    share: float  # of the tokens; those of a mixture sum to 1


def ingredients_of(corpus: str) -> tuple[Ingredient, ...]:
    """What a corpus is mixed of; of one that is no mixture, nothing.

    Raises:
      UserError: a part that has no weight or no corpus, one that comes twice or is a mixture itself.
    """
    if not corpus.startswith(KIND):
        return ()
    weights: dict[str, float] = {}
    for part in corpus.removeprefix(KIND).split(" + "):
        found = _WRITTEN.fullmatch(part.strip())
        if found is None or not float(found[1]):
            raise UserError(
                f"config.data.corpus={corpus!r}: {part.strip()!r} is not a weight above 0 and a corpus; write "
                "mixture:WEIGHT CORPUS + WEIGHT CORPUS, such as: mixture:3 sotu + 1 text:books/*.txt"
            )
        if found[2] in weights or found[2].startswith(KIND):
            why = "stands there twice" if found[2] in weights else "is a mixture itself"
            raise UserError(f"config.data.corpus={corpus!r}: {found[2]!r} {why}; give every corpus one weight")
        weights[found[2]] = float(found[1])
    total = sum(weights.values())
    return tuple(Ingredient(name, weight / total) for name, weight in weights.items())


def rows_of_each(lengths: list[int], shares: list[float]) -> list[int]:
    """How many rows of each corpus an epoch has, given how many there are: all, or more where they are repeated."""
    epoch = max(length / share for length, share in zip(lengths, shares, strict=True))
    return [max(length, round(share * epoch)) for length, share in zip(lengths, shares, strict=True)]
