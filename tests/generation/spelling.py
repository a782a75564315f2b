"""A model that has been trained until it spells, and prompts for it."""

from pathlib import Path

import tiny

import lmarch
from lmarch.data.tokenizers import load_tokenizer
from lmarch.loading import Model
from lmarch.training.loop import train

BYTES = load_tokenizer("bytes")
PROMPTS = ["the fellow citi", "a lasting ", "of this union the peace"]


def spelling_model(folder: Path) -> Model:
    assert train(tiny.config(folder, train__steps=60), folder / "run").exit_status == 0
    return lmarch.load(folder / "run")
