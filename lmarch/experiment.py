"""An experiment: models that are trained once, found again by their fingerprint, and compared on the same targets.

`configs/experiments/NAME.py` defines `get_experiment(tier)`; `reproduce.py NAME` runs it. Models lie in
WORKDIR/models/FINGERPRINT, where other experiments find them; scores lie beside their model, the comparison in
WORKDIR/NAME-TIER. Whatever is there is used again, so an interrupted experiment goes on.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lmarch.config import Config
from lmarch.config_files import load_config
from lmarch.data.corpora import load_documents
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError, nearest
from lmarch.evaluation.axes import AXES
from lmarch.evaluation.contrast import contrast_results
from lmarch.evaluation.manifest import Manifest, make_manifest
from lmarch.evaluation.paired import Measured
from lmarch.evaluation.run import SPLIT, axes_of, measure, model_as
from lmarch.loading import Model, load
from lmarch.training.loop import train
from lmarch.training.workdir import write_json

EXPERIMENTS = Path(__file__).parents[1] / "configs" / "experiments"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """`configs`: of each model its config, as train.py takes it; the first model is the one others are compared to."""

    question: str
    configs: Mapping[str, str]
    overrides: Mapping[str, str]  # of every config: `train.steps` -> "400"
    multiples: tuple[float, ...]  # evaluated lengths, in trained lengths
    methods: tuple[str, ...]  # position methods that every model is evaluated with
    windows: int  # of text, spread over the test documents
    seeds: tuple[int, ...] = (0,)

    def config(self, name: str, seed: int) -> Config:
        seeds = {"model.seed": str(seed), "data.seed": str(seed)}
        return load_config(self.configs[name], list({**self.overrides, **seeds}.items()))

    @property
    def reference(self) -> str:
        return next(iter(self.configs))


def experiment_names() -> list[str]:
    return sorted(file.stem for file in EXPERIMENTS.glob("*.py"))


def load_experiment(name: str, tier: str) -> Experiment:
    """Raises UserError for an unknown name or tier."""
    file = EXPERIMENTS / f"{name}.py"
    if not file.is_file():
        raise UserError(f"unknown experiment {name!r}; {nearest(name, experiment_names())}")
    spec = importlib.util.spec_from_file_location(f"lmarch_experiment_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tiers: Mapping[str, Experiment] = module.TIERS
    if tier not in tiers:
        raise UserError(f"{name} has no tier {tier!r}; {nearest(tier, tiers)}")
    return tiers[tier]


def reproduce(name: str, experiment: Experiment, tier: str, workdir: Path) -> int:
    """Trains what is missing, measures, compares and reports. Exit status: 0, 3 if a value was not finite, 128 + signal."""
    from lmarch.reporting.contrast import write_contrast  # only here, so that nothing needs matplotlib to train

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{name} ({tier}): {experiment.question}")
    runs = {(label, seed): experiment.config(label, seed) for label in experiment.configs for seed in experiment.seeds}
    lengths = _lengths(experiment, runs.values())
    manifest, tokens = _targets(experiment, runs[experiment.reference, experiment.seeds[0]], lengths)
    models: dict[str, list[Model]] = {}
    for (label, seed), config in runs.items():
        folder = workdir / "models" / config.fingerprint()
        console.print(f"\n{label}, seed {seed}")
        outcome = train(config, folder)
        if outcome.exit_status:
            return outcome.exit_status
        models.setdefault(label, []).append(load(folder))

    folder = workdir / f"{name}-{tier}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", manifest.to_json() | {"sha256": manifest.sha256})
    results = _measure_all(experiment, models, lengths, manifest, tokens, console)
    partial = folder / "results.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in results))
    partial.replace(folder / "results.jsonl")
    facts = [_facts(label, made[0]) for label, made in models.items()]
    write_json(folder / "models.json", {"models": facts})
    write_contrast(name, experiment.question, results, facts, folder, console)
    return 3 if any(row["n_nonfinite"] for row in results) else 0


def _lengths(experiment: Experiment, configs: Collection[Config]) -> list[int]:
    trained = {config.model.trained_length for config in configs}
    if len(trained) != 1:
        raise UserError(f"an experiment compares models of one trained length, these have {sorted(trained)}")
    (length,) = trained
    return [int(multiple * length) for multiple in experiment.multiples]


def _targets(experiment: Experiment, config: Config, lengths: list[int]) -> tuple[Manifest, list[np.ndarray]]:
    """The targets of the experiment, the same for all models; made before any is trained."""
    return make_manifest(
        load_documents(config.data, SPLIT),
        load_tokenizer(config.data.tokenizer),
        longest=max(lengths),
        shortest=min(lengths),
        targets=config.model.trained_length // 4,
        num_windows=experiment.windows,
        seed=0,
    )


def _measure_all(
    experiment: Experiment,
    models: Mapping[str, list[Model]],
    lengths: list[int],
    manifest: Manifest,
    tokens: list[np.ndarray],
    console: Console,
) -> list[dict[str, Any]]:
    """A row a (method, axis, length, model)."""
    results: list[dict[str, Any]] = []
    for method in experiment.methods:
        for length in lengths:
            by_axis: dict[str, dict[str, list[Measured]]] = {axis: {} for axis in AXES}
            for label, made in models.items():
                for model in made:
                    under = model_as(model, method, max(lengths))
                    items = model.workdir / "eval" / "contrast"
                    items.mkdir(parents=True, exist_ok=True)
                    for axis in axes_of(model.config, None):
                        scores = measure(under, axis, length, manifest, tokens, items, lambda done: None)
                        for wanted in AXES if axis is None else (axis,):  # a causal decoder is the same along all
                            by_axis[wanted].setdefault(label, []).append(scores)
            for axis, measured in by_axis.items():
                condition = {
                    "method": method,
                    "axis": axis,
                    "length": length,
                    "trained_length": models[experiment.reference][0].config.model.trained_length,
                }
                results += contrast_results(measured, experiment.reference, manifest, condition)
            console.print(f"  measured {method} at {length}")
    return results


def _facts(label: str, model: Model) -> dict[str, Any]:
    """What a model is and what it took, for the table of what was matched."""
    run = json.loads((model.workdir / "run.json").read_text())
    names = ("parameters", "training_flops", "read_tokens", "loss_tokens", "steps", "objective")
    return {
        "model": label,
        "architecture": model.config.model.architecture,
        "non_embedding_parameters": run["parameters"] - model.definition.embedding_parameters,
        **{key: run[key] for key in names},
        "cross_positions": model.config.model.cross_positions if model.definition.is_encoder_decoder else None,
        "workdir": str(model.workdir),
    }
