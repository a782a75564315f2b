"""What experiments on models that are read as they were trained share: no other method on their weights."""

from collections.abc import Iterable, Mapping
from typing import Any

from lmarch.configs.parts.text_model import CORPORA, RATES
from lmarch.experiments.definition import AS_TRAINED, Experiment


def as_trained(configs: Mapping[str, str], overrides: Mapping[str, str] | None = None, **rest: Any) -> Experiment:
    """`rest`: what is asked, what is read and what was published."""
    return Experiment(configs=configs, overrides=overrides or {}, methods=(AS_TRAINED,), **rest)


def task_by_position(
    task: str, positions: Iterable[str], length: int, layers: int, steps: int, gate: float = 0.9, **rest: Any
) -> Experiment:
    """Models of `configs/task.py`, one a position method, asked 256 problems of a length; all must have learned the task."""
    given = f"task:task={task},length={length},layers={layers},steps={steps}"
    return as_trained({p: f"{given},position={p}" for p in positions}, task=task, windows=256, gate=gate, **rest)


def text_beyond_length(configs: Mapping[str, str], **rest: Any) -> Experiment:
    """Models of text, read at up to eight trained lengths; judged are those within 0.1 bits per byte of the best at L."""
    return as_trained(
        configs,
        multiples=(1, 1.5, 2, 4, 8),
        margin=0.1,
        precision=0.02,
        corpora=CORPORA,
        rates=dict.fromkeys(configs, RATES),
        **rest,
    )
