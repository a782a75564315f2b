"""Runs an experiment: train what is missing, measure, compare, judge, report.

Models lie in WORKDIR/models/FINGERPRINT, where other experiments find them; scores lie beside their model, the comparison and
the verdicts in WORKDIR/NAME-TIER, or NAME-TIER-test if test text was read. Whatever is there is used again, so an interrupted
experiment goes on.
"""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from lmarch.config import Config
from lmarch.data.documents import Split
from lmarch.durable import write_json
from lmarch.evaluation.claims import RULE_NUMBER, judge
from lmarch.evaluation.rows import finite, write_rows
from lmarch.experiments.comparison import Lines, measure_lines
from lmarch.experiments.definition import Experiment
from lmarch.experiments.models import Stopped, facts, train_all
from lmarch.experiments.publishing import folder_of, note_reading, publish, require_publishable
from lmarch.experiments.reading import Reading, lengths_of, reading_of
from lmarch.loading import Model
from lmarch.lock import alone_in
from lmarch.provenance import machine_record


def reproduce(
    name: str,
    experiment: Experiment,
    tier: str,
    workdir: Path,
    split: Split = "validation",
    *,
    publishing: bool = False,
) -> int:
    """The exit status: 0, 3 if a value was not finite, 128 + signal.

    Args:
      publishing: of test text, also stores what is small in `results/`; refused before anything is trained if it must not be.
    """
    from lmarch.reporting.contrast import write_contrast  # only here, so that nothing needs matplotlib to train

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{name} ({tier}): {experiment.question}")
    record = _record(name, experiment, tier, split)
    of_each = {training: experiment.config(training) for training in experiment.trainings()}
    lengths = lengths_of(experiment, of_each.values())
    configs = {training.corpus: config for training, config in of_each.items()}
    readings = {corpus: reading_of(experiment, config, lengths, split) for corpus, config in configs.items()}
    texts = [text for _, text in readings.values()]
    if publishing:
        require_publishable(name, tier, experiment, workdir, texts)
    folder = folder_of(name, tier, split, workdir)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, "wait until it ends, or stop it"):
        try:
            trained = train_all(experiment, workdir / "models", console)
        except Stopped as stopped:
            return stopped.status
        if split == "test":
            note_reading(folder, experiment, texts, console)
        lines = {
            corpus: _measured(experiment, trained.of(corpus), lengths, reading, configs[corpus], split, console)
            for corpus, (reading, _) in readings.items()
        }
        results = [row for one in lines.values() for row in one.rows()]
        verdicts = judge([obtained for one in lines.values() for obtained in one.obtained()])
        models = [facts(*key, made, trained.rates.get(key, {})) for key, made in trained.models.items()]
        write_rows(folder / "results.jsonl", results)
        write_json(folder / "models.json", {"models": models})
        write_json(folder / "verdicts.json", finite(verdicts))
        write_json(folder / "record.json", record)
        write_contrast(record, results, verdicts, models, folder, console)
    if any(row["n_nonfinite"] for row in results):
        return 3
    if publishing:
        console.print(f"stored: {publish(name, tier, workdir)}")
    return 0


def _measured(
    experiment: Experiment,
    models: dict[str, list[Model]],
    lengths: list[int],
    reading: Reading,
    config: Config,
    split: Split,
    console: Console,
) -> Lines:
    """The lines of one corpus, by as many windows as the experiment's precision takes."""
    lines = measure_lines(experiment, models, lengths, reading, console)
    needed = lines.windows_needed()
    if needed <= experiment.windows:
        return lines
    console.print(f"  {needed:,} windows, not {experiment.windows}, for intervals of ±{experiment.precision:g}")
    more, _ = reading_of(experiment, config, lengths, split, needed)
    return measure_lines(experiment, models, lengths, more, console)


def _record(name: str, experiment: Experiment, tier: str, split: Split) -> dict[str, Any]:
    """What was asked, and with which code, versions and device it is answered."""
    return {
        "name": name,
        "tier": tier,
        **{key: getattr(experiment, key) for key in ("question", "source", "cost", "metric", "settings")},
        "tried": [dataclasses.asdict(one) for one in experiment.tried],
        "rule": RULE_NUMBER,
        "split": split,
        **machine_record(),
        "command": f"lmarch reproduce {name} --tier={tier}" + (" --final" if split == "test" else ""),
    }
