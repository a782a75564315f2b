"""One evaluation: manifest -> per-item scores, kept as they come -> results -> tables, figure, report.

Everything lies in WORKDIR/eval/SUITE. Scores of a (method, length) that are there for the same checkpoint and manifest
are used again, so an interrupted evaluation goes on and a second one only draws.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lmarch.attention.attend import choose
from lmarch.config import Config, EvalConfig, digest, from_dict
from lmarch.config_files import override
from lmarch.data.corpora import load_documents
from lmarch.data.documents import Split
from lmarch.errors import UserError
from lmarch.evaluation.axes import AXES, given_tokens
from lmarch.evaluation.manifest import Manifest, make_manifest
from lmarch.evaluation.paired import Measured, paired_results
from lmarch.evaluation.scoring import Scores, score
from lmarch.loading import Model
from lmarch.registry import format_variant, parse_variant
from lmarch.training.workdir import write_json
from lmarch.visibility.selection import Quest

WINDOWS = {"smoke": 64, "cpu": 128, "full": 1000}
SPLIT: Split = "test"
SCORED = tuple(
    field.name for field in dataclasses.fields(Scores)
)  # what a file of scores holds; an older one is made anew
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
    documents = load_documents(config.data, SPLIT)
    manifest, tokens = make_manifest(
        documents,
        model.tokenizer,
        longest=max(*lengths, trained),  # the crop control needs room for the trained length
        shortest=min(*lengths, trained),
        targets=settings.targets or max(1, trained // 4),
        num_windows=WINDOWS[settings.suite],
        seed=settings.seed,
    )
    same_text = config.data.corpus == model.config.data.corpus
    folder = (
        model.workdir / "eval" / (settings.suite if same_text else f"{settings.suite}-{digest(config.data.corpus)}")
    )
    (folder / "items").mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", manifest.to_json() | {"sha256": manifest.sha256})

    axes = axes_of(model.config, settings.axes)
    each_axis = [(model, trained), *((made, length) for made in methods for length in lengths)]
    cells = [(made, axis, length) for axis in axes for made, length in each_axis]
    used = len(manifest.document_ids())
    console.print(
        f"{model.workdir} at step {model.step}: {len(manifest.windows)} windows of {manifest.targets} targets from "
        f"{used} of {manifest.num_documents} {SPLIT} documents of {manifest.corpus}"
    )
    measured = _measure_all(cells, manifest, tokens, folder / "items", console)
    results = []
    for axis in axes:
        crop, *others = (scores for scores in measured if scores.axis == axis)
        results += paired_results(others, crop, manifest, _identity(model, config))
    partial = folder / "results.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in results))
    partial.replace(folder / "results.jsonl")
    _report(results, model, folder, console)
    return 3 if any(row["n_nonfinite"] for row in results) else 0


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


def _measure_all(
    cells: list[tuple[Model, str | None, int]],
    manifest: Manifest,
    tokens: list[np.ndarray],
    folder: Path,
    console: Console,
) -> list[Measured]:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TextColumn("windows, ETA"))
    total = len(cells) * len(manifest.windows)
    measured = []
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        for done, (model, axis, length) in enumerate(cells):
            name = f"{model.method} at {length}" + (f", {AXES[axis].title}" if axis else "")
            progress.update(bar, description=name)
            start = done * len(manifest.windows)
            measured.append(
                measure(
                    model,
                    axis,
                    length,
                    manifest,
                    tokens,
                    folder,
                    functools.partial(_advance, progress, bar, start),
                )
            )
            if progress.disable and done:
                console.print(f"  {name}: {measured[-1].scores.tokens_per_second:,.0f} tokens/s")
    return measured


def _advance(progress: Progress, bar: TaskID, start: int, count: int) -> None:
    progress.update(bar, completed=start + count)


def axes_of(config: Config, wanted: Sequence[str] | None) -> Sequence[str | None]:
    """The axes to measure along; None stands for a causal decoder's only one."""
    if config.model.architecture != "causal_decoder":
        return wanted or tuple(AXES)
    if wanted:
        raise UserError(f"config.eval.axes={','.join(wanted)}: a causal decoder reads one stream, leave axes out")
    return (None,)


def measure(
    model: Model,
    axis: str | None,
    length: int,
    manifest: Manifest,
    tokens: list[np.ndarray],
    folder: Path,
    report: Callable[[int], None],
) -> Measured:
    """Scores of one (method, axis, length), from disk if they are there for these weights and this manifest."""
    method, settings = model.method, model.definition.config
    packed = model.sampled_reach is not None or settings.architecture == "prefix_decoder"
    given = given_tokens(axis, length, manifest.targets, model.config.model.trained_length) if axis else None
    texts = (given, length + 1 - given) if given and model.definition.is_encoder_decoder else (length,)
    implementation = choose(settings.attention, model.spec, max(texts), packed=packed, dtype=settings.compute_dtype)
    weights = model.weights_fingerprint
    source = [method, length, given, weights, manifest.sha256, model.config.fingerprint(), implementation, *SCORED]
    name = re.sub(r"[^\w.=]+", "-", method)
    file = (
        folder
        / f"{name if len(name) < 80 else f'{name[:60]}-{digest(method)}'}@{length}{f'-{axis}' if axis else ''}.npz"
    )
    if file.exists():
        with np.load(file) as stored:
            if str(stored["source"]) == digest(source):
                scores = Scores(stored["nll_NS"], stored["hits_NS"], float(stored["tokens_per_second"]))
                return Measured(model, axis, length, given, implementation, scores)
    scores = score(model, manifest, tokens, length, report, given)
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, **dataclasses.asdict(scores), source=digest(source))
    partial.replace(file)
    return Measured(model, axis, length, given, implementation, scores)


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
        "seed_model": model.config.model.seed,
        "seed_data": model.config.data.seed,
        "seed_eval": config.eval.seed,
    }


def _report(results: list[dict[str, Any]], model: Model, folder: Path, console: Console) -> None:
    # Only here, so that nothing needs matplotlib to measure.
    from lmarch.reporting.figures import bits_per_byte_figure, save_figure
    from lmarch.reporting.html import write_report
    from lmarch.reporting.results import by_axis
    from lmarch.reporting.tables import terminal_table, write_csv
    from lmarch.training.metrics import read_metrics

    for axis, rows in by_axis(results).items():
        suffix = f"-{axis}" if axis else ""
        write_csv(rows, folder / f"results{suffix}.csv")
        save_figure(bits_per_byte_figure(rows), folder / f"bits_per_byte{suffix}")
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
    write_report(results, record, folder / "report.html")
    for axis, rows in by_axis(results).items():
        if axis:
            console.print(f"\n[bold]{AXES[axis].title}[/bold]: {AXES[axis].meaning}")
        console.print(terminal_table(rows))
    console.print(f"report: {folder / 'report.html'}")
