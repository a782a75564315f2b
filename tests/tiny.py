"""A run small enough for a test: a few thousand characters of text, one or two narrow layers."""

import random
from pathlib import Path
from typing import Any

from lmarch.config import Config, from_dict

WORDS = ("the", "fellow", "citizens", "of", "this", "union", "have", "given", "consent", "to", "a", "lasting", "peace")


def write_corpus(folder: Path, documents: int = 24, words: int = 400) -> str:
    """Text files of random words; returns the corpus name."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        words_of = random.Random(number)
        text = " ".join(words_of.choice(WORDS) for _ in range(words))
        (folder / f"{number:03}.txt").write_text(text)
    return f"text:{folder}/*.txt"


def tree(folder: Path, **changes: Any) -> dict[str, Any]:
    """Untyped values of a tiny config; `changes` are dotted with double underscores: train__steps=4."""
    made: dict[str, Any] = {
        "data": {"corpus": write_corpus(folder / "text"), "cache_dir": str(folder / "cache"), "batch_rows": 8},
        "model": {"trained_length": 32, "num_layers": 2, "dim": 32, "num_heads": 4, "head_dim": 8, "num_kv_heads": 2},
        "train": {"steps": 8, "learning_rate": 1e-2, "log_steps": 1, "eval_rows": 16},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        made.setdefault(group, {})[name] = value
    return made


def config(folder: Path, **changes: Any) -> Config:
    return from_dict(tree(folder, **changes))


def config_file(folder: Path, **changes: Any) -> Path:
    """The same as a config file for the commands."""
    file = folder / "tiny.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n"
        f"def get_config(arg=''):\n    return ConfigDict({tree(folder, **changes)!r})\n"
    )
    return file
