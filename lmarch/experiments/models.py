"""The models of an experiment: trained once, each at its best learning rate, and found again by config and code."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.config import Config
from lmarch.experiments.definition import Experiment, Training
from lmarch.loading import Model, load
from lmarch.lock import Busy
from lmarch.provenance import TRAINING, code_digest
from lmarch.training.loop import train
from lmarch.training.parent import with_parent
from lmarch.training.run import Outcome
from lmarch.training.workdir import read_record, trained_by


@dataclasses.dataclass(frozen=True)
class Trained:
    """Of a label and corpus: a model a seed, in the order of the seeds, and what each learning rate came to on validation."""

    models: Mapping[tuple[str, str | None], list[Model]]
    rates: Mapping[tuple[str, str | None], Mapping[float, float]]  # bits per byte; empty where there is no choice

    def of(self, corpus: str | None) -> dict[str, list[Model]]:
        return {label: models for (label, of_corpus), models in self.models.items() if of_corpus == corpus}


class Stopped(Exception):
    """A training was asked to stop, and saved; `status` is 128 + the signal."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def train_all(experiment: Experiment, folder: Path, console: Console) -> Trained:
    """Trains what is missing in `folder`, a model a subfolder.

    Raises:
      Stopped: by a signal; the same again goes on from there.
    """
    models: dict[tuple[str, str | None], list[Model]] = {}
    rates: dict[tuple[str, str | None], dict[float, float]] = {}
    for training in experiment.trainings():
        key = training.label, training.corpus
        if key not in rates:
            rates[key] = _tried(experiment, training, models, folder, console)
        rate = min(rates[key], key=rates[key].__getitem__) if rates[key] else None
        chosen = dataclasses.replace(training, rate=rate)
        console.print(f"\n{_named(chosen)}")
        models.setdefault(key, []).append(load(_trained(experiment, chosen, models, folder, console)))
    return Trained(models, rates)


def _tried(
    experiment: Experiment,
    training: Training,
    models: Mapping[tuple[str, str | None], list[Model]],
    folder: Path,
    console: Console,
) -> dict[float, float]:
    """Of every learning rate the bits per byte of validation text at the end of the first seed's run."""
    found = {}
    for rate in experiment.rates.get(training.label, ()):
        one = dataclasses.replace(training, rate=rate)
        console.print(f"\n{_named(one)}, to choose the rate by validation")
        run = read_record(_trained(experiment, one, models, folder, console))
        found[rate] = run["validation_bits_per_byte"]
    return found


def _named(training: Training) -> str:
    rate = None if training.rate is None else f"learning rate {training.rate:g}"
    return ", ".join(filter(None, (training.label, training.corpus, f"seed {training.seed}", rate)))


def _trained(
    experiment: Experiment,
    training: Training,
    models: Mapping[tuple[str, str | None], list[Model]],
    folder: Path,
    console: Console,
) -> Path:
    config = experiment.config(training)
    if training.label in experiment.starts:
        base = models[experiment.starts[training.label], training.corpus][experiment.seeds.index(training.seed)]
        config = with_parent(_started(config, base.workdir))
    place = _place(config, folder, console)
    outcome = _train_alone(config, place, console)
    if outcome.exit_status:
        raise Stopped(outcome.exit_status)
    return place


def _train_alone(config: Config, place: Path, console: Console) -> Outcome:
    """Train, or wait for another process that trains the same model, and then take what it has made."""
    told = False
    while True:
        try:
            return train(config, place)
        except Busy as busy:
            if not told:
                console.print(f"  waiting: {busy}")
            told = True
            time.sleep(SECONDS_BETWEEN_LOOKS)


SECONDS_BETWEEN_LOOKS = 2.0


def _started(config: Config, base: Path) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, start_from=str(base)))


def _place(config: Config, folder: Path, console: Console) -> Path:
    """Where a model of this config lies; one that other code trained is left, and trained anew beside it."""
    place, code = folder / config.fingerprint(), code_digest(TRAINING)
    if trained_by(place) in (None, code):
        return place
    console.print(f"  {place.name} was trained by other code: training anew")
    return folder / f"{place.name}-{code}"


def facts(label: str, corpus: str | None, made: list[Model], rates: Mapping[float, float]) -> dict[str, Any]:
    """What the models of a line are and what they took, for the table of what was matched."""
    model, runs = made[0], [read_record(one.workdir) for one in made]
    names = ("parameters", "training_flops", "read_tokens", "loss_tokens", "steps", "objective")
    return {
        "model": label,
        "corpus": corpus or model.config.data.corpus,
        "architecture": model.config.model.architecture,
        "non_embedding_parameters": runs[0]["parameters"] - model.definition.embedding_parameters,
        **{key: runs[0][key] for key in names},
        "cross_positions": model.config.model.cross_positions if model.definition.is_encoder_decoder else None,
        "learning_rate": model.config.train.learning_rate,
        "rates_tried": [{"rate": rate, "validation_bits_per_byte": bits} for rate, bits in rates.items()],
        "runs": [
            {
                "fingerprint": one.config.fingerprint(),
                "seed_model": one.config.model.seed,
                "seed_data": one.config.data.seed,
                "validation_bits_per_byte": run["validation_bits_per_byte"],
                **{key: run.get(key) for key in ("code", "git_commit", "started", "device")},
            }
            for one, run in zip(made, runs, strict=True)
        ],
    }
