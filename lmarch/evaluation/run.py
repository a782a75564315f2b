"""One evaluation: what is asked for -> manifest -> the parts, each kept as it comes -> result rows.

Everything lies in WORKDIR/eval/SUITE. What another evaluation left there is moved to its folder `earlier` first; scores are
used again by all.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.data.corpora import load_documents
from lmarch.data.documents import Document
from lmarch.data.runs_of_words import RUN
from lmarch.durable import append_json, read_json_lines, write_json, writing
from lmarch.evaluation.asked import Asked, ask
from lmarch.evaluation.contamination import MOST, overlap
from lmarch.evaluation.manifest import Manifest, make_manifest
from lmarch.evaluation.paired import measured_by_axis, paired_results
from lmarch.evaluation.precision import widest, windows_needed
from lmarch.evaluation.rows import write_rows
from lmarch.evaluation.session import Session
from lmarch.evaluation.statistics import Interval
from lmarch.evaluation.suites import PARTS
from lmarch.evaluation.training_text import NotKnown, rows_trained_on, training_text
from lmarch.loading import Model
from lmarch.lock import LOCK, alone_in
from lmarch.provenance import git_commit, now
from lmarch.registry import format_variant


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured, as it stands in `results.jsonl`."""

    model: Model
    folder: Path
    rows: list[dict[str, Any]]

    @property
    def status(self) -> int:
        """The exit status: 0, or 3 if some value was not finite."""
        return 3 if any(row["n_nonfinite"] for row in self.rows) else 0


def evaluate(model: Model, overrides: Sequence[tuple[str, str]] = ()) -> Evaluation:
    """Measures what `config.eval` asks for, and writes the rows.

    Raises:
      UserError: an unknown method or suite, a length no document has room for.
    """
    console = Console(highlight=False, soft_wrap=True)
    asked = ask(model, overrides, console)
    advice = "make room there, or copy the run to where there is; what is measured so far is used again"
    with writing(asked.folder, advice), alone_in(asked.folder, "wait until it ends, or stop it"):
        return Evaluation(model, asked.folder, _measured(asked, console))


def _measured(asked: Asked, console: Console) -> list[dict[str, Any]]:
    """The result rows, which are also written."""
    model = asked.model
    session, of_text = _precise_session(asked, console)
    facts, results = {**_identity(asked), **of_text}, []
    for name in asked.parts:
        if PARTS[name].needs in (None, model.config.model.architecture):
            results += [{**facts, **row} for row in PARTS[name].rows(session)]
        else:
            console.print(f"  {name}: defined for {PARTS[name].needs} only")
    results += [{**facts, **row} for row in session.lost]
    write_rows(asked.folder / "results.jsonl", results)
    return results


def _precise_session(asked: Asked, console: Console) -> tuple[Session, dict[str, Any]]:
    """With as many windows as the precision takes that is asked for, by a first look at as many as the suite has."""
    began, precision = time.perf_counter(), asked.config.eval.precision
    session, of_text = _open_session(asked, console, asked.size.windows)
    if asked.config.eval.split == "test":
        _note_reading_of_test_text(asked, console)
    if precision is None or "paired" not in asked.parts:
        return session, of_text
    gains = [
        (row["gain"], Interval(row["gain_low"], row["gain_high"]))
        for crop, others in measured_by_axis(session)
        for row in paired_results(others, crop)
    ]
    half, windows = widest(gains), len(session.manifest.windows)
    needed = windows_needed(half, windows, precision)
    if needed <= windows:
        return session, of_text
    seconds = (time.perf_counter() - began) * needed / windows
    console.print(
        f"  context gains are known to ±{half:.2g} bits per byte by {windows} windows; ±{precision:g} takes about {needed:,}, "
        f"in {seconds / 60:.0f} minutes"
    )
    session, of_text = _open_session(asked, console, needed)
    if len(session.manifest.windows) < needed:
        console.print(
            f"  the text has no more than {len(session.manifest.windows):,}: intervals stay wider than asked for"
        )
    return session, of_text


def _open_session(asked: Asked, console: Console, windows: int) -> tuple[Session, dict[str, Any]]:
    """Reads the text, draws what is scored, and says so; also entries of every result row about the text."""
    model, config, folder = asked.model, asked.config, asked.folder
    trained, split = model.config.model.trained_length, config.eval.split
    documents = load_documents(config.data, split)
    manifest, tokens = make_manifest(
        documents,
        model.tokenizer,
        longest=max(*asked.lengths, trained),  # the crop control needs room for the trained length
        shortest=min(*asked.lengths, trained),
        targets=config.eval.targets or max(1, trained // 4),
        num_windows=windows,
        seed=config.eval.seed,
    )
    (folder / "items").mkdir(parents=True, exist_ok=True)
    used = manifest.document_ids()
    shared = _shared_text(asked, manifest, [documents[d] for d in used], console)
    flag = "" if shared is None or shared <= MOST else " (CONTAMINATED)"
    share = "an unknown share" if shared is None else f"{shared:.1%}"
    console.print(
        f"{model.workdir} at step {model.step}: {len(manifest.windows)} windows of {manifest.targets} targets from "
        f"{len(used)} of {manifest.num_documents} {split} documents of {manifest.corpus}; {share} of their runs of {RUN} words "
        f"stand in the training text{flag}"
    )
    session = Session(
        model,
        asked.methods,
        asked.lengths,
        asked.axes,
        config,
        asked.size,
        manifest,
        tokens,
        folder / "items",
        console,
    )
    return session, {"shared_text": shared, "contaminated": None if shared is None else shared > MOST}


def _note_reading_of_test_text(asked: Asked, console: Console) -> None:
    """What is chosen after test text was scored was chosen on it: every reading is kept, and how many there were is said."""
    file = asked.model.workdir / "eval" / "test_readings.jsonl"
    before = len(read_json_lines(file))
    append_json(file, {"date": now(), "git_commit": git_commit(), **asked.to_json()})
    console.print(f"  test text: reading {before + 1} of this run, noted in {file}")


def _keep_earlier(asked: Asked) -> None:
    """Moves the results and reports of an evaluation that asked for something else out of the way of this one's."""
    folder, file = asked.folder, asked.folder / "asked.json"
    wanted = json.loads(json.dumps(asked.to_json()))
    if file.exists() and json.loads(file.read_text()) != wanted:
        number = 1 + sum(1 for _ in (folder / "earlier").glob("*"))
        earlier = folder / "earlier" / str(number)
        earlier.mkdir(parents=True)
        for left in folder.iterdir():
            if left.is_file() and left.name != LOCK:
                left.replace(earlier / left.name)
    write_json(file, wanted)


def _shared_text(asked: Asked, manifest: Manifest, tested: Sequence[Document], console: Console) -> float | None:
    """The share of the scored documents that stands in the training text, kept beside the manifest; None: not known."""
    file = asked.folder / "manifest.json"
    stored = json.loads(file.read_text()) if file.exists() else {}
    shared, trained_on = None, None
    try:
        trained_on = list(rows_trained_on(asked.model))
        if (stored.get("sha256"), stored.get("trained_on")) == (manifest.sha256, trained_on):
            shared = stored["shared_text"]
        else:
            shared = overlap(training_text(asked.model), (document.text for document in tested))
    except NotKnown as reason:
        console.print(f"  whether training read what is scored is not known: {reason}")
    facts = {"sha256": manifest.sha256, "trained_on": trained_on, "shared_text": shared}
    _keep_earlier(asked)
    write_json(file, manifest.to_json() | facts)
    return shared


def _identity(asked: Asked) -> dict[str, Any]:
    """What identifies the run in every result row."""
    model, config = asked.model, asked.config
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
