"""What an experiment is: `configs/experiments/NAME.py` defines TIERS, a size of it each."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

from lmarch.config import Config, digest, seeds_of
from lmarch.config_files import load_config, load_definition
from lmarch.errors import UserError, nearest
from lmarch.evaluation.claims import FEWEST_SEEDS, Claim
from lmarch.shipped import EXPERIMENTS, names

AS_TRAINED = "as trained"


@dataclasses.dataclass(frozen=True)
class Tried:
    """A setting that was looked at and is not the experiment's, and what it gave."""

    setting: str
    outcome: str


@dataclasses.dataclass(frozen=True)
class Training:
    """One model of an experiment: `label` names its config."""

    label: str
    seed: int  # the number of the run, see `seeds_of`
    corpus: str | None  # none: that of its config
    rate: float | None  # none: that of its config


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
    windows: int  # of text, spread over the documents, or problems of a length; with `precision`, of the first look
    # Half-width, in the experiment's metric, that differences may have over documents: as many windows as it takes.
    precision: float | None = None
    task: str | None = None  # none: text
    corpora: tuple[str, ...] = ()  # of text, each trained and measured on its own; none: that of the configs
    # Of a model the learning rates of which it is trained at the best by validation; none: at that of its config.
    rates: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = tuple(range(FEWEST_SEEDS))
    lines: Literal["models", "methods"] = "models"
    metric: str = "bpb"  # of the figure; tables and claims may use others
    claims: tuple[Claim, ...] = ()  # on every corpus
    starts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # fine-tuned model -> the model it starts from
    # A claim is judged if its models do this well where they were trained, in the experiment's metric; none: any.
    gate: float | None = None
    # And if they do as well there as the best of the experiment, to within this margin; none: however well.
    margin: float | None = None
    tried: tuple[Tried, ...] = ()

    def config(self, training: Training) -> Config:
        """Of a fine-tuned model, before it is known where its base lies."""
        changes = {**self.overrides, **{field: str(value) for field, value in seeds_of(training.seed).items()}}
        if training.corpus is not None:
            changes["data.corpus"] = training.corpus
        if training.rate is not None:
            changes["train.learning_rate"] = str(training.rate)
        if training.label in self.starts:
            changes["train.start_from"] = self.starts[training.label]
        return load_config(self.configs[training.label], list(changes.items()))

    @property
    def texts(self) -> tuple[str | None, ...]:
        return self.corpora or (None,)

    def trainings(self) -> Iterator[Training]:
        """Of every model that is measured, at its config's rate; a base comes before what starts from it."""
        for corpus in self.texts:
            for label in self.configs:
                for seed in self.seeds:
                    yield Training(label, seed, corpus, None)

    def cells(self) -> list[tuple[str, str, str, str]]:
        """(group, line, model, method) of all that is measured; the first line of a group is its reference."""
        if self.lines == "models":
            return [(method, model, model, method) for method in self.methods for model in self.configs]
        return [(model, method, model, method) for model in self.configs for method in self.methods]

    @property
    def settings(self) -> str:
        """A digest of all that decides its results: what it asks, and every config as it is resolved today."""
        asked = dataclasses.asdict(dataclasses.replace(self, tried=(), cost="", question="", source=""))
        return digest([asked, *(self.config(training).fingerprint() for training in self.trainings())])


def experiment_names() -> list[str]:
    return names(EXPERIMENTS)


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
