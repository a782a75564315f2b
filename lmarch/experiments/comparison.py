"""Every line of an experiment measured under every condition, compared, and its claims judged; of one corpus."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lmarch.evaluation.asked import axes_of, model_as
from lmarch.evaluation.axes import AXES
from lmarch.evaluation.claims import Claim, Obtained
from lmarch.evaluation.contrast import contrast_results
from lmarch.evaluation.measuring import Measured, measure
from lmarch.evaluation.metrics import METRICS
from lmarch.evaluation.pairing import Pairing
from lmarch.evaluation.precision import widest, windows_needed
from lmarch.evaluation.problems import METRICS as OF_PROBLEMS
from lmarch.evaluation.statistics import Interval, ratio
from lmarch.experiments.definition import AS_TRAINED, Experiment
from lmarch.experiments.reading import Reading
from lmarch.loading import Model

# (group, axis, length) -> line -> an entry a training seed
Cells = dict[tuple[str, str | None, int], dict[str, list[Measured]]]


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines of an experiment on one text: the models, and what was measured of them."""

    experiment: Experiment
    models: Mapping[str, list[Model]]  # a model a training seed
    reading: Reading
    lengths: Mapping[float, int]  # of multiples
    cells: Cells

    def rows(self) -> list[dict[str, Any]]:
        """A row a (group, axis, length, metric, line)."""
        of_reading = OF_PROBLEMS if self.experiment.task else ("bpb", "accuracy")
        metrics = dict.fromkeys((self.experiment.metric, *of_reading))
        rows: list[dict[str, Any]] = []
        for (group, axis, length), lines in self.cells.items():
            reference = next(iter(lines))
            condition = {
                "group": group,
                "axis": axis,
                "length": length,
                "trained_length": lines[reference][0].model.config.model.trained_length,
                "lines": self.experiment.lines,
            }
            rows += contrast_results(lines, reference, condition, tuple(metrics))
        return rows

    def windows_needed(self) -> int:
        """How many bring the intervals of differences, over documents alone, down to the experiment's precision."""
        experiment = self.experiment
        if experiment.precision is None:
            return experiment.windows
        rows = [row for row in self.rows() if row["metric"] == experiment.metric and row["line"] != row["reference"]]
        half = widest((row["difference"], Interval(row["documents_low"], row["documents_high"])) for row in rows)
        return windows_needed(half, experiment.windows, experiment.precision)

    def obtained(self) -> list[Obtained]:
        """Of every claim what was measured."""
        return [self._obtained(claim) for claim in self.experiment.claims]

    def _obtained(self, claim: Claim) -> Obtained:
        lines_of = self.experiment.cells()
        group = claim.group or lines_of[0][0]
        lines = self.cells[group, claim.axis, self.lengths[claim.multiple]]
        concerned = dict.fromkeys(
            model for of, line, model, _ in lines_of if of == group and line in (claim.ahead, claim.behind)
        )
        return Obtained(claim, lines[claim.ahead], lines[claim.behind], self._gate(tuple(concerned)))

    def _gate(self, concerned: tuple[str, ...]) -> str | None:
        """Why a claim about these models cannot be judged: one has not learned where it was trained what others have."""
        gate, margin, metric = self.experiment.gate, self.experiment.margin, METRICS[self.experiment.metric]
        if gate is None and margin is None:
            return None
        sign = 1 if metric.higher_is_better else -1
        values = {label: [self._where_trained(model) for model in made] for label, made in self.models.items()}
        best = max((float(np.mean(of_seeds)) for of_seeds in values.values()), key=lambda value: sign * value)
        for label in concerned:
            for value in values[label]:
                if gate is not None and sign * value < sign * gate:
                    return f"{label}: {metric.unit} {value:.3g} where it was trained misses the gate of {gate:g}"
            mean = float(np.mean(values[label]))
            if margin is not None and sign * (best - mean) > margin:
                return (
                    f"{label}: {metric.unit} {mean:.3g} where it was trained, the best line has {best:.3g}, which is more "
                    f"than {margin:g} better"
                )
        return None

    def _where_trained(self, model: Model) -> float:
        """The experiment's metric at the trained length."""
        axis = None if self.experiment.task else axes_of(model.config, None)[0]
        items = self.reading(model.config.model.trained_length, axis)
        pairing = Pairing(items, self.experiment.metric)
        one = measure(model, items, _folder(model), lambda done: None, axis)
        return ratio(pairing.per_document(one.scores), pairing.sizes_D)


def measure_lines(
    experiment: Experiment,
    models: Mapping[str, list[Model]],
    lengths: list[int],
    reading: Reading,
    console: Console,
) -> Lines:
    """Measures every line at every length along every axis; of each as many entries as there are training seeds."""
    cells: Cells = {}
    axes = _axes(experiment, models)
    for group, line, label, method in experiment.cells():
        for length in lengths:
            for model in models[label]:
                under = model if method == AS_TRAINED else model_as(model, method, max(lengths))
                for axis in (None,) if experiment.task else axes_of(model.config, None):
                    one = measure(under, reading(length, axis), _folder(model), lambda done: None, axis)
                    for wanted in axes if axis is None else (axis,):  # a causal decoder is the same along all
                        cells.setdefault((group, wanted, length), {}).setdefault(line, []).append(one)
        console.print(f"  measured {label} under {method}")
    return Lines(experiment, models, reading, dict(zip(experiment.multiples, lengths, strict=True)), cells)


def _axes(experiment: Experiment, models: Mapping[str, list[Model]]) -> tuple[str | None, ...]:
    """Causal decoders alone have no axes, and neither have problems."""
    causal = all(made[0].config.model.architecture == "causal_decoder" for made in models.values())
    return (None,) if causal or experiment.task else tuple(AXES)


def _folder(model: Model) -> Path:
    """Of its scores, beside it."""
    folder = model.workdir / "eval" / "contrast"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
