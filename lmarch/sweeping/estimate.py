"""What a sweep will cost, before it runs: FLOPs by formula, seconds by the speed of a few steps or of trials that are done."""

import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

from lmarch.config import Config
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import tokenizer_of
from lmarch.models.definition import ModelDefinition
from lmarch.sweeping.study import Trial
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics

STEPS_TIMED = 6


def training_flops(config: Config) -> float:
    """Of the whole run, every row being one text; an encoder, or a prefix, takes half of it."""
    plan, length = make_plan(config), config.row_length
    definition = ModelDefinition(config.model, plan.vocabulary_size(tokenizer_of(config.data)))
    half = length // 2
    given = {"encoder_decoder": {"source": half}, "prefix_decoder": {"prefix": half}}.get(config.model.architecture, {})
    tokens = length - half if definition.is_encoder_decoder else length
    return config.total_steps * config.data.batch_rows * definition.training_flops(tokens, **given)


def measured_speed(trials: list[Trial]) -> float | None:
    """FLOPs a second of trials that are done, their compilation and evaluation included; None if none is."""
    done = [one.record for one in trials if one.state == "finished"]
    seconds = sum(record["seconds"] for record in done)
    return sum(record["training_flops"] for record in done) / seconds if seconds else None


def timed_speed(config: Config) -> float:
    """FLOPs a second of a few steps of the loop itself, after compilation."""
    train_config = dataclasses.replace(
        config.train, steps=STEPS_TIMED, tokens=None, warmup_steps=0, warmup_tokens=None, log_steps=1,
        schedule="constant", decay_steps=None, decay_tokens=None, position_schedule=(), start_from=None, eval_rows=1,
    )  # fmt: skip
    short = dataclasses.replace(config, train=train_config)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):  # what a run says of itself is not about the sweep
            train(short, folder)
        rates = [one["tokens_per_second"] for one in read_metrics(Path(folder)) if "tokens_per_second" in one]
    steady = rates[1:] or rates
    return sum(steady) / len(steady) * training_flops(short) / (STEPS_TIMED * short.tokens_per_step)
