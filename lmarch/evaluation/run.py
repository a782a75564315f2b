"""One evaluation: manifest -> the suite's parts, each kept as it comes -> results -> tables, figures, report.

Everything lies in WORKDIR/eval/SUITE.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.config import Config, EvalConfig, digest, from_dict
from lmarch.config_files import override
from lmarch.data.corpora import load_documents
from lmarch.data.documents import Document, Split
from lmarch.errors import UserError, nearest
from lmarch.evaluation.axes import AXES
from lmarch.evaluation.contamination import MOST, RUN, overlap
from lmarch.evaluation.manifest import Manifest, make_manifest
from lmarch.evaluation.session import Session
from lmarch.evaluation.suites import PARTS, SUITES
from lmarch.loading import Model
from lmarch.registry import format_variant, parse_variant
from lmarch.tasks import TASKS
from lmarch.training.workdir import write_json
from lmarch.visibility.selection import Quest

SPLIT: Split = "test"
ALLOWED = ("data.corpus", "data.text_field", "data.cache_dir", "data.download")  # what text, and where it is kept


def evaluate(model: Model, overrides: Sequence[tuple[str, str]] = ()) -> int:
    """Measures and reports; returns the exit status: 0, or 3 if some value was not finite.

    Raises:
      UserError: an unknown method or suite, a length no document has room for.
    """
    config = _with_overrides(model.config, overrides)
    trained, settings = model.config.model.trained_length, config.eval
    console = Console(highlight=False, soft_wrap=True)
    lengths = sorted(set(settings.lengths or [trained * n // 2 for n in (1, 2, 4, 8, 16)]))
    for method in settings.methods or ():
        if settings.windows and " in " in method:
            raise UserError(f"{method!r} names its own window: leave out --windows, which would replace it")
    methods = [model_as(model, method, max(lengths)) for method in settings.methods or default_methods(model)]
    methods = _under_each(methods or [model], settings)
    lengths = _possible(lengths, methods, settings.lengths is not None, console)
    parts, size = _parts(config), SUITES[settings.suite].size
    axes = axes_of(model.config, settings.axes)
    documents = load_documents(config.data, SPLIT)
    manifest, tokens = make_manifest(
        documents,
        model.tokenizer,
        longest=max(*lengths, trained),  # the crop control needs room for the trained length
        shortest=min(*lengths, trained),
        targets=settings.targets or max(1, trained // 4),
        num_windows=size.windows,
        seed=settings.seed,
    )
    same_text = config.data.corpus == model.config.data.corpus
    name = settings.suite if same_text else f"{settings.suite}-{digest(config.data.corpus)}"
    folder = model.workdir / "eval" / (f"{name}-average" if model.average else name)
    (folder / "items").mkdir(parents=True, exist_ok=True)
    shared = _shared_text(model, manifest, [documents[d] for d in manifest.document_ids()], folder / "manifest.json")

    used = len(manifest.document_ids())
    console.print(
        f"{model.workdir} at step {model.step}: {len(manifest.windows)} windows of {manifest.targets} targets from "
        f"{used} of {manifest.num_documents} {SPLIT} documents of {manifest.corpus}; {shared:.1%} of their runs of {RUN} words "
        f"stand in the training text{' (CONTAMINATED)' if shared > MOST else ''}"
    )
    session = Session(model, methods, lengths, axes, config, size, manifest, tokens, folder / "items", console)
    results, of_run = [], {**_identity(model, config), "shared_text": shared, "contaminated": shared > MOST}
    for name in parts:
        if PARTS[name].needs in (None, model.config.model.architecture):
            results += [{**of_run, **row} for row in PARTS[name].rows(session)]
        else:
            console.print(f"  {name}: defined for {PARTS[name].needs} only")
    results += [{**of_run, **row} for row in session.lost]
    partial = folder / "results.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in results))
    partial.replace(folder / "results.jsonl")
    _report(results, model, folder, console)
    return 3 if any(row["n_nonfinite"] for row in results) else 0


def _shared_text(model: Model, manifest: Manifest, tested: Sequence[Document], file: Path) -> float:
    """The share of the tested documents that stands in the training text; kept beside the manifest."""
    stored = json.loads(file.read_text()) if file.exists() else {}
    if stored.get("sha256") == manifest.sha256 and "shared_text" in stored:
        return float(stored["shared_text"])
    shared = overlap(load_documents(model.config.data, "train"), tested)
    write_json(file, manifest.to_json() | {"sha256": manifest.sha256, "shared_text": shared})
    return shared


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
            if isinstance(spec.selection, Quest) and spec.selection.prefill == "dense":
                raise UserError(
                    "quest selects only while it decodes: --selections=quest:prefill=selected measures what decoding does"
                )
    return list({one.method: one for one in made or models}.values())


def _with_overrides(config: Config, overrides: Sequence[tuple[str, str]]) -> Config:
    tree = config.to_dict()
    for key, text in overrides:
        if not key.startswith("eval.") and key not in ALLOWED:
            raise UserError(
                f"--config.{key} would not be this trained model: an evaluation takes config.eval.* and {', '.join(ALLOWED)}"
            )
        override(tree, key, text)
    return from_dict(tree)


def axes_of(config: Config, wanted: Sequence[str] | None) -> Sequence[str | None]:
    """The axes to measure along; None stands for a causal decoder's only one."""
    if config.model.architecture != "causal_decoder":
        return wanted or tuple(AXES)
    if wanted:
        raise UserError(f"config.eval.axes={','.join(wanted)}: a causal decoder reads one stream, leave axes out")
    return (None,)


def _identity(model: Model, config: Config) -> dict[str, Any]:
    """What identifies the run in every result row."""
    return {
        "run_id": model.config.fingerprint(),
        "architecture": model.config.model.architecture,
        "objective": format_variant(model.config.objective),
        "cross_positions": model.config.model.cross_positions if model.definition.is_encoder_decoder else None,
        "trained_with": model.method,
        "position_sampler": None
        if model.sampled_reach is None
        else format_variant(model.config.data.position_sampler or {}),
        "dtype": model.config.model.compute_dtype,
        "checkpoint_step": model.step,
        "averaged_weights": model.average,
        "seed_model": model.config.model.seed,
        "seed_data": model.config.data.seed,
        "seed_eval": config.eval.seed,
    }


def _report(results: list[dict[str, Any]], model: Model, folder: Path, console: Console) -> None:
    if not results:
        console.print("nothing was measured: no report")
        return
    # Only here, so that nothing needs matplotlib to measure.
    from lmarch.reporting.report import write_everything
    from lmarch.training.metrics import read_metrics

    file = model.workdir / "run.json"
    run = json.loads(file.read_text()) if file.exists() else {}
    record = {
        "name": model.workdir.name,
        "config": model.config.to_dict(),
        "wall_seconds": run.pop("seconds", None),
        "validation_bpb": run.pop("validation_bits_per_byte", None),
        **run,
        "history": [
            {"step": m["step"], "loss": m.get("loss"), "validation_bpb": m.get("validation_bits_per_byte")}
            for m in read_metrics(model.workdir)
        ],
    }
    write_everything(results, record, folder, console)
