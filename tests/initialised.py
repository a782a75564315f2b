"""Models with the weights that training would begin with: enough wherever it does not matter what was learned."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmarch.config import Config
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import load_tokenizer
from lmarch.loading import Model
from lmarch.models.definition import ModelDefinition

BYTES = load_tokenizer("bytes")
_drawn: dict[str, Any] = {}


def parameters(made: ModelDefinition) -> Any:
    """Those of an initialisation, drawn once for all models whose parameters have the same names and shapes."""
    shapes = str(jax.tree.map(np.shape, made.shapes))
    if shapes not in _drawn:
        _drawn[shapes] = made.init(jax.random.key(0))
    return _drawn[shapes]


def model(config: Config, workdir: Path) -> Model:
    """As `lmarch.load` would give it, had a run of no step been saved in `workdir`."""
    definition = ModelDefinition(config.model, make_plan(config).vocabulary_size(BYTES))
    workdir.mkdir(parents=True, exist_ok=True)
    return Model(config, definition, parameters(definition), BYTES, workdir, 0)
