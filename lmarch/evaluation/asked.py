"""What an evaluation is asked for: checked whole before any text is read."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.config import Config, EvalConfig, digest, from_dict
from lmarch.config_files import override
from lmarch.errors import UserError, nearest
from lmarch.evaluation.axes import AXES
from lmarch.evaluation.session import Size
from lmarch.evaluation.suites import PARTS, SUITES
from lmarch.loading import Model, untrained
from lmarch.registry import label, parse_variant
from lmarch.tasks import TASKS

# What text, and where it is kept.
ALLOWED = ("data.corpus", "data.folder", "data.splits", "data.text_field", "data.cache_dir", "data.download")


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """A model, and what is to be measured of it."""

    model: Model
    config: Config  # the model's, with what this evaluation changes: `eval`, and the text
    methods: Sequence[Model]  # the same weights under every method that is measured
    lengths: Sequence[int]  # ascending
    axes: Sequence[str | None]  # None stands for a causal decoder's only one
    parts: Sequence[str]
    size: Size

    @property
    def folder(self) -> Path:
        """WORKDIR/eval/SUITE, with what else makes it another evaluation: text, split, weights."""
        config, corpus = self.config, self.config.data.corpus
        words = [
            config.eval.suite,
            *([] if config.eval.split == "validation" else [config.eval.split]),
            *([] if corpus == self.model.config.data.corpus else [digest(corpus)]),
            *(["average"] if self.model.average else []),
        ]
        return self.model.workdir / "eval" / "-".join(words)

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint_step": self.model.step,
            "methods": [method.method for method in self.methods],
            "lengths": list(self.lengths),
            "axes": list(self.axes),
            "parts": list(self.parts),
            "splits": self.config.data.splits,
            "eval": dataclasses.asdict(self.config.eval),
        }


def ask(model: Model, overrides: Sequence[tuple[str, str]], console: Console) -> Asked:
    """What the config asks for, with `overrides`.

    Raises:
      UserError: an unknown method, part or suite, a length that a method cannot compute.
    """
    config = _with_overrides(model.config, overrides)
    trained, settings = model.config.model.trained_length, config.eval
    lengths = sorted(set(settings.lengths or [trained * n // 2 for n in (1, 2, 4, 8, 16)]))
    for method in settings.methods or ():
        if settings.windows and " in " in method:
            raise UserError(f"{method!r} names its own window: leave out --windows, which would replace it")
    methods = [model_as(model, method, max(lengths)) for method in settings.methods or default_methods(model)]
    methods = _under_each(methods or [model], settings)
    lengths = _possible(lengths, methods, settings.lengths is not None, console)
    axes = axes_of(model.config, settings.axes)
    return Asked(model, config, methods, lengths, axes, _parts(config), SUITES[settings.suite].size)


def check_before_training(config: Config, workdir: Path = Path("none")) -> None:
    """Refuses what an evaluation of a run of this config would be refused for, as far as it can be told without its weights.

    Raises:
      UserError: methods, windows, selections, lengths, parts or tasks of `config.eval` that cannot be.
    """
    ask(untrained(config, workdir), [], Console(quiet=True))


def _parts(config: Config) -> tuple[str, ...]:
    """The parts of the suite, or those that are asked for; checks the tasks too, before anything is measured."""
    for name in config.eval.parts or ():
        if name not in PARTS:
            raise UserError(f"unknown part {name!r} of an evaluation; {nearest(name, PARTS)}")
    for task in config.eval.tasks or ():
        TASKS.build(task)
    return config.eval.parts or SUITES[config.eval.suite].parts


def _possible(lengths: list[int], methods: list[Model], given: bool, console: Console) -> list[int]:
    """The lengths that every method can compute; refuses those that were asked for, says which others are left out."""
    for model in methods:
        for longest, who in ((model.definition.longest, model.method), (model.sampled_reach, "the position sampler")):
            beyond = [length for length in lengths if longest is not None and length > longest]
            if beyond and (given or len(beyond) == len(lengths)):
                raise UserError(f"{who} cannot go beyond {longest} tokens: leave {beyond[0]} out of --lengths")
            if beyond:
                console.print(f"{who} cannot go beyond {longest} tokens: {', '.join(map(str, beyond))} left out")
                lengths = [length for length in lengths if length not in beyond]
    return lengths


def default_methods(model: Model) -> tuple[str, ...]:
    """What the model was trained with; one trained with plain RoPE also interpolated and with a changed base.

    Empty if no layer takes another method: the model as it is.
    """
    trained = model.definition.common_position  # with every parameter as it was in training
    if trained is None:
        return ()
    return (trained, "linear", "ntk") if trained == "rope" else (trained,)


def model_as(model: Model, method: str, longest: int) -> Model:
    """The model under another position method, stretched to the longest evaluated length unless told otherwise.

    `NAME in WINDOW` also puts it into a context window. One setting serves every length, as in deployment: what a method
    costs at short lengths stays visible.
    """
    method, _, window = method.partition(" in ")
    variant = dict(parse_variant(method))
    trained = model.config.model
    target = trained.target_length or max(longest, trained.trained_length, trained.encoder.trained_length or 0)
    made = model.with_position(variant.pop("name"), target_length=target, **variant)
    return made.with_window(window) if window else made


def _under_each(models: list[Model], settings: EvalConfig) -> list[Model]:
    """The models in every window and under every selection that is asked for; two spellings of one are one.

    A selection has a local window of its own, so the two are not crossed.
    """
    made = [model.with_window(window) for window in settings.windows or () for model in models]
    for selection in settings.selections or ():
        made += [model.with_selection(None if selection == "all" else selection) for model in models]
    for one in made:
        for spec in one.definition.specs:
            chosen = spec.selection  # whole texts are measured
            if chosen and (reason := chosen.refuses(queries=2, placed=False, cached=False)):
                raise UserError(f"--selections={label(chosen)}: {reason}")
    return list({one.method: one for one in made or models}.values())


def _with_overrides(config: Config, overrides: Sequence[tuple[str, str]]) -> Config:
    tree = config.to_dict()
    for key, text in overrides:
        if not key.startswith("eval.") and key not in ALLOWED:
            raise UserError(
                f"--config.{key} would not be this trained model: an evaluation takes config.eval.* and {', '.join(ALLOWED)}"
            )
        override(tree, key, text)
    named = {key for key, _ in overrides}
    if "data.corpus" in named and "data.folder" not in named:
        tree["data"]["folder"] = None  # it is named from here, not from where the run was started
    return from_dict(tree)


def axes_of(config: Config, wanted: Sequence[str] | None) -> Sequence[str | None]:
    """The axes to measure along; None stands for a causal decoder's only one."""
    if config.model.architecture != "causal_decoder":
        return wanted or tuple(AXES)
    if wanted:
        raise UserError(f"config.eval.axes={','.join(wanted)}: a causal decoder reads one stream, leave axes out")
    return (None,)
