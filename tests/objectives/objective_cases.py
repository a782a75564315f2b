"""Every registered objective, some with other parameters, and texts to ask about."""

import numpy as np

from lmarch.objectives import OBJECTIVES, Draws, Example, Examples, Objective, Texts, Vocabulary

VOCABULARY = Vocabulary(bos=256, eos=257, pad=258, first_special=259)
VARIANTS = (
    *OBJECTIVES,
    "causal_lm:loss=suffix",
    "span_corruption:density=0.5,mean_span=1,sentinels=300",
    "span_corruption:density=0.9,mean_span=20",
    "ul2:regular=0,sequential=3",
    "ul2:extreme=0,sequential=0",
    "blank_infilling:long=0",
    "blank_infilling:long=1",
    "blank_infilling:density=0.6,mean_span=1,long=0.1",
)


def random_text(length: int, rng: np.random.Generator) -> np.ndarray:
    """Bytes with bos and eos anywhere, as where documents are cut and joined."""
    return rng.integers(0, 258, length).astype(np.int32)


def apart(examples: Examples) -> list[Example]:
    """One by one what is laid out one after the other."""
    inputs = np.split(examples.inputs, np.cumsum(examples.input_lengths)[:-1])
    parts = [
        [None] * len(inputs) if part is None else np.split(part, np.cumsum(examples.target_lengths)[:-1])
        for part in (examples.targets, examples.fed, examples.fed_positions, examples.fed_blocks, examples.scored)
    ]
    return [Example(*one) for one in zip(inputs, *parts, strict=True)]


def asked(objective: Objective, texts: list[np.ndarray], draws: Draws) -> list[Example]:
    lengths = np.array([len(text) for text in texts])
    return apart(objective.examples(Texts(np.concatenate(texts), lengths), VOCABULARY, draws))


def example_of(objective: Objective, text: np.ndarray, rng: np.random.Generator) -> Example:
    """One, of what is drawn by a key from `rng`."""
    return asked(objective, [text], Draws(rng.integers(2**64, size=1, dtype=np.uint64)))[0]


def drawn(objective: Objective, length: int, count: int) -> list[Example]:
    """Examples of one text that tells its tokens apart as far as bytes do."""
    text = (np.arange(length) % 256).astype(np.int32)
    return asked(objective, [text] * count, Draws.of_rows(length, 0, np.arange(count)))
