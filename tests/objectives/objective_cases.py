"""Every registered objective, some with other parameters, and texts to ask about."""

import numpy as np

from lmarch.objectives import OBJECTIVES, Example, Objective, Vocabulary

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


def drawn(objective: Objective, length: int, count: int) -> list[Example]:
    """Examples of one text that tells its tokens apart as far as bytes do."""
    text = (np.arange(length) % 256).astype(np.int32)
    return [objective.example(text, VOCABULARY, np.random.default_rng((length, i))) for i in range(count)]
