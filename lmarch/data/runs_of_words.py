"""Runs of 13 words, by which text is known again (Brown et al. 2020, arXiv 2005.14165, appendix C).

Words are what white space separates, and each character of a script that has none between its words, so what is found does not
depend on a tokenizer.
"""

import re
from collections.abc import Iterable

import numpy as np

RUN = 13
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing
# Thai, Lao, Myanmar, Khmer; kana, Chinese characters, and those of the planes beyond.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def runs_of_words(texts: Iterable[str], numbers: dict[str, int]) -> list[np.ndarray]:
    """Of each text a 64-bit hash of every run, uint64.

    Args:
      numbers: of the words so far, which grows; texts are only compared under the same one.
    """
    return [_runs(text, numbers) for text in texts]


def _runs(text: str, numbers: dict[str, int]) -> np.ndarray:
    words = np.array([numbers.setdefault(word, len(numbers)) for word in _WORD.findall(text)], np.uint64)
    hashed = np.zeros(max(0, len(words) - RUN + 1), np.uint64)
    for place in range(RUN):
        hashed = hashed * _FACTOR + words[place : place + len(hashed)]
        hashed ^= hashed >> np.uint64(29)
    return hashed
