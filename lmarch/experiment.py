"""An experiment: models that are trained once, found again by their fingerprint, and compared on the same targets.

`configs/experiments/NAME.py` defines TIERS; `lmarch reproduce NAME` runs one. Models lie in WORKDIR/models/FINGERPRINT, where
other experiments find them; scores lie beside their model, the comparison and the verdicts in WORKDIR/NAME-TIER. Whatever
is there is used again, so an interrupted experiment goes on. `publish` copies what is small into `results/`, from which
docs/results.md is made.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lmarch.config import Config
from lmarch.config_files import load_config, load_definition
from lmarch.data.corpora import load_documents
from lmarch.data.material import material
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError, nearest
from lmarch.evaluation.axes import AXES, given_tokens
from lmarch.evaluation.claims import Claim, judge
from lmarch.evaluation.contrast import contrast_results
from lmarch.evaluation.items import Items
from lmarch.evaluation.manifest import make_manifest
from lmarch.evaluation.measuring import Measured, measure
from lmarch.evaluation.metrics import METRICS
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.problems import METRICS as OF_PROBLEMS
from lmarch.evaluation.problems import as_items, draw
from lmarch.evaluation.run import SPLIT, axes_of, model_as
from lmarch.evaluation.statistics import ratio
from lmarch.loading import Model, load
from lmarch.shipped import EXPERIMENTS, RESULTS, names
from lmarch.tasks import TASKS
from lmarch.training.loop import train
from lmarch.training.workdir import machine_record, write_json

# (group, axis, length) -> line -> an entry a training seed
Cells = dict[tuple[str, str | None, int], dict[str, list[Measured]]]

AS_TRAINED = "as trained"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """`configs`: of each model its config, as `lmarch train` takes it.

    Lines of one picture are compared with each other, to the first: the models (one picture a method) or the methods (one
    picture a model). They read text, or problems of a task.
    """

    question: str
    source: str  # of what was published
    cost: str  # on what it runs how long
    configs: Mapping[str, str]
    overrides: Mapping[str, str]  # of every config: `train.steps` -> "400"
    multiples: tuple[float, ...]  # evaluated lengths, in trained lengths
    methods: tuple[str, ...]  # position methods that every model is evaluated with; AS_TRAINED: its own
    windows: int  # of text, spread over the test documents; or problems of a length
    task: str | None = None  # none: text
    seeds: tuple[int, ...] = (0,)
    lines: Literal["models", "methods"] = "models"
    metric: str = "bpb"  # of the figure; tables and claims may use others
    claims: tuple[Claim, ...] = ()
    starts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # fine-tuned model -> the model it starts from
    # A claim is judged if its models do this well where they were trained, in the experiment's metric; none: any.
    gate: float | None = None

    def config(self, name: str, seed: int) -> Config:
        """Of a fine-tuned model, before it is known where its base lies."""
        seeds = {"model.seed": str(seed), "data.seed": str(seed)}
        if name in self.starts:
            seeds["train.start_from"] = self.starts[name]
        return load_config(self.configs[name], list({**self.overrides, **seeds}.items()))

    def cells(self) -> list[tuple[str, str, str, str]]:
        """(group, line, model, method) of all that is measured; the first line of a group is its reference."""
        if self.lines == "models":
            return [(method, model, model, method) for method in self.methods for model in self.configs]
        return [(model, method, model, method) for model in self.configs for method in self.methods]


def experiment_names() -> list[str]:
    return names(EXPERIMENTS)


@dataclasses.dataclass(frozen=True)
class Stored:
    """What `results/` holds of a finished experiment."""

    record: dict[str, Any]
    verdicts: list[dict[str, Any]]
    results: list[dict[str, Any]]


def stored_results() -> dict[tuple[str, str], Stored]:
    """By name and tier, in order of the names."""
    found = {}
    for folder in sorted(file.parent for file in RESULTS.glob("*/record.json")):
        record, verdicts = (json.loads((folder / f"{name}.json").read_text()) for name in ("record", "verdicts"))
        results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        found[record["name"], record["tier"]] = Stored(record, verdicts, results)
    return found


def publish(name: str, tier: str, workdir: Path) -> Path:
    """Copies what tables and figures are drawn from into `results/NAME-TIER` of a checkout."""
    folder = RESULTS / f"{name}-{tier}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("results.jsonl", "verdicts.json", "models.json", "record.json"):
        shutil.copyfile(workdir / f"{name}-{tier}" / file, folder / file)
    return folder


def load_experiment(name: str, tier: str) -> Experiment:
    """Raises UserError for an unknown name or tier."""
    tiers = tiers_of(name)
    if tier not in tiers:
        raise UserError(f"{name} has no tier {tier!r}; {nearest(tier, tiers)}")
    return tiers[tier]


def tiers_of(name: str) -> Mapping[str, Experiment]:
    """Raises UserError for an unknown name."""
    if name not in experiment_names():
        raise UserError(f"unknown experiment {name!r}; {nearest(name, experiment_names())}")
    tiers: Mapping[str, Experiment] = load_definition(name, "experiment", "TIERS", EXPERIMENTS)
    return tiers


def reproduce(name: str, experiment: Experiment, tier: str, workdir: Path) -> int:
    """Trains what is missing, measures, compares and reports. Exit status: 0, 3 if a value was not finite, 128 + signal."""
    from lmarch.reporting.contrast import write_contrast  # only here, so that nothing needs matplotlib to train

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{name} ({tier}): {experiment.question}")
    record = _record(name, experiment, tier)
    runs = {(label, seed): experiment.config(label, seed) for label in experiment.configs for seed in experiment.seeds}
    lengths = _lengths(experiment, runs.values())
    reading = _reading(experiment, next(iter(runs.values())), lengths)
    models: dict[str, list[Model]] = {}
    for (label, seed), config in runs.items():
        if label in experiment.starts:
            base = runs[experiment.starts[label], seed]
            config = _started(config, workdir / "models" / base.fingerprint())
        folder = workdir / "models" / config.fingerprint()
        console.print(f"\n{label}, seed {seed}")
        outcome = train(config, folder)
        if outcome.exit_status:
            return outcome.exit_status
        models.setdefault(label, []).append(load(folder))

    folder = workdir / f"{name}-{tier}"
    folder.mkdir(parents=True, exist_ok=True)
    cells = _measure_all(experiment, models, lengths, reading, console)
    results = _contrasts(experiment, cells)
    length_of = dict(zip(experiment.multiples, lengths, strict=True))
    verdicts = [_judged(claim, experiment, models, reading, length_of, cells) for claim in experiment.claims]
    partial = folder / "results.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in results))
    partial.replace(folder / "results.jsonl")
    facts = [_facts(label, made[0]) for label, made in models.items()]
    write_json(folder / "models.json", {"models": facts})
    write_json(folder / "verdicts.json", verdicts)
    write_json(folder / "record.json", record)
    write_contrast(record, results, verdicts, facts, folder, console)
    return 3 if any(row["n_nonfinite"] for row in results) else 0


def _started(config: Config, base: Path) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, start_from=str(base)))


def _record(name: str, experiment: Experiment, tier: str) -> dict[str, Any]:
    """What was asked, and with which code, versions and device it is answered."""
    return {
        "name": name,
        "tier": tier,
        **{key: getattr(experiment, key) for key in ("question", "source", "cost", "metric")},
        **machine_record(),
        "command": f"lmarch reproduce {name} --tier={tier}",
    }


def _lengths(experiment: Experiment, configs: Collection[Config]) -> list[int]:
    trained = {config.model.trained_length for config in configs}
    if len(trained) != 1:
        raise UserError(f"an experiment compares models of one trained length, these have {sorted(trained)}")
    (length,) = trained
    return [int(multiple * length) for multiple in experiment.multiples]


# (length, axis) -> what is read
Reading = Callable[[int, str | None], Items]


def _reading(experiment: Experiment, config: Config, lengths: list[int]) -> Reading:
    """What the experiment reads at a length along an axis, the same for all models; refused before any is trained."""
    tokenizer, trained = load_tokenizer(config.data.tokenizer), config.model.trained_length
    if experiment.task is not None:
        task, made_of = TASKS.build(experiment.task), material(config.data, SPLIT, tokenizer)
        for length in lengths:
            task.check(made_of, length)

        @functools.cache
        def problems(length: int, axis: str | None) -> Items:
            return as_items(draw(task, made_of, length, experiment.windows, seed=0), task, tokenizer, seed=0)

        return problems
    manifest, tokens = make_manifest(
        load_documents(config.data, SPLIT),
        tokenizer,
        longest=max(lengths),
        shortest=min(lengths),
        targets=trained // 4,
        num_windows=experiment.windows,
        seed=0,
    )

    @functools.cache
    def text(length: int, axis: str | None) -> Items:
        given = given_tokens(axis, length, manifest.targets, trained) if axis else None
        return manifest.items(tokens, length, tokenizer.byte_lengths, given)

    return text


def _measure_all(
    experiment: Experiment, models: Mapping[str, list[Model]], lengths: list[int], reading: Reading, console: Console
) -> Cells:
    """Every line at every length along every axis; of each as many entries as there are training seeds."""
    cells: Cells = {}
    axes = _axes(experiment, models)
    for group, line, label, method in experiment.cells():
        for length in lengths:
            for model in models[label]:
                under = model if method == AS_TRAINED else model_as(model, method, max(lengths))
                for axis in (None,) if experiment.task else axes_of(model.config, None):
                    one = measure(under, reading(length, axis), _items(model), lambda done: None, axis)
                    for wanted in axes if axis is None else (axis,):  # a causal decoder is the same along all
                        cells.setdefault((group, wanted, length), {}).setdefault(line, []).append(one)
        console.print(f"  measured {label} under {method}")
    return cells


def _axes(experiment: Experiment, models: Mapping[str, list[Model]]) -> tuple[str | None, ...]:
    """Causal decoders alone have no axes, and neither have problems."""
    causal = all(made[0].config.model.architecture == "causal_decoder" for made in models.values())
    return (None,) if causal or experiment.task else tuple(AXES)


def _items(model: Model) -> Path:
    folder = model.workdir / "eval" / "contrast"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _contrasts(experiment: Experiment, cells: Cells) -> list[dict[str, Any]]:
    """A row a (group, axis, length, metric, line)."""
    of_reading = OF_PROBLEMS if experiment.task else ("bpb", "accuracy")
    metrics = dict.fromkeys((experiment.metric, *of_reading))
    rows: list[dict[str, Any]] = []
    for (group, axis, length), lines in cells.items():
        reference = next(iter(lines))
        trained = lines[reference][0].model.config.model.trained_length
        condition = {
            "group": group,
            "axis": axis,
            "length": length,
            "trained_length": trained,
            "lines": experiment.lines,
        }
        rows += contrast_results(lines, reference, condition, tuple(metrics))
    return rows


def _judged(
    claim: Claim,
    experiment: Experiment,
    models: Mapping[str, list[Model]],
    reading: Reading,
    length_of: Mapping[float, int],
    cells: Cells,
) -> dict[str, Any]:
    lines_of = experiment.cells()
    group = claim.group or lines_of[0][0]
    lines = cells[group, claim.axis, length_of[claim.multiple]]
    concerned = dict.fromkeys(
        model for of, line, model, _ in lines_of if of == group and line in (claim.ahead, claim.behind)
    )
    gate = _gate(experiment, {label: models[label] for label in concerned}, reading)
    return judge(claim, lines[claim.ahead], lines[claim.behind], gate)


def _gate(experiment: Experiment, models: Mapping[str, list[Model]], reading: Reading) -> str | None:
    """Why a claim about these models cannot be judged: one has not learned its task where it was trained."""
    if experiment.gate is None:
        return None
    metric = METRICS[experiment.metric]
    for label, made in models.items():
        for model in made:
            axis = None if experiment.task else axes_of(model.config, None)[0]
            items = reading(model.config.model.trained_length, axis)
            pairing = Pairing(items, experiment.metric)
            one = measure(model, items, _items(model), lambda done: None, axis)
            value = ratio(pairing.per_document(one.scores), pairing.sizes_D)
            if not (value >= experiment.gate if metric.higher_is_better else value <= experiment.gate):
                return f"{label}: {metric.unit} {value:.3g} where it was trained misses the gate of {experiment.gate:g}"
    return None


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
        "fingerprint": model.config.fingerprint(),
    }
