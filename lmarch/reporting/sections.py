"""A report, section by section: what was measured, in one sentence, with its figures and tables; whatever was measured."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from lmarch.evaluation.attention_statistics import STATISTICS
from lmarch.evaluation.axes import AXES
from lmarch.registry import for_people, variant_name
from lmarch.reporting import numbers
from lmarch.reporting.curves import cost_figure, distance_figure, loss_by_position_figure, shares_figure
from lmarch.reporting.figures import bits_per_byte_figure
from lmarch.reporting.grid import Grid, cost_grid, results_grid, values_grid
from lmarch.reporting.headline import headline_figure
from lmarch.reporting.heat_map import by_distance, heat_map_figure
from lmarch.reporting.results import Comparison, Row, compare, distinct, estimate, select
from lmarch.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Drawing:
    name: str  # of its files
    figure: Figure
    description: str  # for who cannot see it
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    meaning: str
    drawings: Sequence[Drawing] = ()
    grids: Sequence[Grid] = ()


def report_sections(results: Sequence[Row]) -> list[Section]:
    """Only of what the results hold."""
    kinds = (_headline, _paired, _far_copies, _by_position, _repeated, _problems, _perplexity, _attention, _cost, _lost)
    return [section for kind in kinds for section in kind(results)]


def _lost(results: Sequence[Row]) -> Iterator[Section]:
    rows = select(results, task="out_of_memory")
    if rows:
        name = for_people(row["method"] for row in rows)
        what = "; ".join(f"{row['part']}: {name[row['method']]} at {row['length']}" for row in rows)
        yield Section("Out of memory", f"Not even one row at a time fitted the device: {what}.")


def along(axis: str | None) -> str:
    """': the prefix grows'; empty for a causal decoder."""
    return f": {AXES[axis].title}" if axis else ""


def _headline(results: Sequence[Row]) -> Iterator[Section]:
    """Where both text and problems were measured: one picture of text and of the first task."""
    tasks = distinct(select(results, task="problems"), "corpus")
    for axis in distinct(select(results, task="paired"), "axis") if tasks else ():
        bits = compare(results, task="paired", axis=axis)
        found = compare(results, task="problems", corpus=tasks[0], metric="exact_match")
        yield Section(
            f"At a glance{along(axis)}",
            "The same weights under every method. Text tells what a longer window costs; a problem, whose answer may stand "
            "anywhere in the window, whether what lies beyond the trained length is found.",
            [
                Drawing(
                    _name("headline", axis),
                    headline_figure(bits, found),
                    f"Bits per byte of text and exact match of {tasks[0]} by window length",
                    "Dotted: the unmodified model with its context cut to the trained length, which is all that a method "
                    "without use for longer contexts can be expected to reach. A triangle gives the value of a point beyond "
                    "the axis.",
                )
            ],
        )


def _paired(results: Sequence[Row]) -> Iterator[Section]:
    for axis in distinct(select(results, task="paired"), "axis"):
        comparison = compare(results, task="paired", axis=axis)
        meaning = "Every method at every window length scores the same targets; a longer window only adds context before them."
        meaning += _exactly(results) if axis is None else ""
        yield Section(
            f"Bits per byte{along(axis)}",
            f"{meaning} {AXES[axis].meaning if axis else ''}".strip(),
            [
                Drawing(
                    _name("bits_per_byte", axis),
                    bits_per_byte_figure(comparison),
                    "Bits per byte and context gain by window length",
                    _gain_caption(comparison),
                )
            ],
            [results_grid(comparison)],
        )


def _exactly(results: Sequence[Row]) -> str:
    """What the crop control gains where every target has all of the trained length before it."""
    rows = select(results, task="exact_crop")
    gain = estimate(rows[0], "gain", "gain") if rows else None
    if gain is None:
        return ""
    places = numbers.decimals([gain])
    value, interval = numbers.number(gain.value, places, sign=True), numbers.bracketed(gain, places)
    return (
        f" The crop control gains {value} {interval} bits per byte where each target has exactly the trained length before it: "
        "so much of a context gain would be that alone."
    )


def _far_copies(results: Sequence[Row]) -> Iterator[Section]:
    for axis in distinct(select(results, task="far_copies"), "axis"):
        comparison = compare(results, task="far_copies", axis=axis)
        yield Section(
            f"Far copies{along(axis)}",
            "The same, of those targets only that end a run of about eight bytes which stands earlier in the document too, "
            "beyond the trained length but not within it: what a longer context can help with.",
            [
                Drawing(
                    _name("far_copies", axis),
                    bits_per_byte_figure(comparison, "far copies"),
                    "Bits per byte of far copies and context gain by window length",
                    _gain_caption(comparison),
                )
            ],
            [results_grid(comparison)],
        )


def _by_position(results: Sequence[Row]) -> Iterator[Section]:
    rows = select(results, task="by_position")
    if rows:
        comparison = compare(
            results, where=lambda row: (row["from_position"] + row["to_position"]) / 2, task="by_position"
        )
        longest = ", ".join(map(str, distinct(rows, "length")))
        slopes = select(results, task="slope")
        slope = (
            " The slope is the loss of the first half of a trained length beyond it minus that of the last half before it, in "
            "the same windows: above 0, losses rise where training ended."
        )
        yield Section(
            "Loss by position",
            f"The loss of every token of windows of {longest} tokens, which start anywhere inside documents, by its position "
            f"in the window.{slope if slopes else ''}",
            [
                Drawing(
                    "by_position",
                    loss_by_position_figure(comparison),
                    "Bits per byte by position in the window",
                    "A line that stays flat right of the dashed one extrapolates; one that falls there uses the context.",
                )
            ],
            [values_grid({"slope, nats per token": compare(results, task="slope")}, sign=True)] if slopes else [],
        )


def _repeated(results: Sequence[Row]) -> Iterator[Section]:
    for axis in distinct(select(results, task="repeated"), "axis"):
        accuracy, bits = (compare(results, task="repeated", metric=metric, axis=axis) for metric in ("accuracy", "bpb"))
        yield Section(
            f"Repeated text{along(axis)}",
            "Half a trained length of a document, again and again up to the window: all that comes has been seen before, so a "
            "model that uses its window should not get worse as the window grows.",
            [
                Drawing(
                    _name("repeated", axis),
                    shares_figure({"Next-token accuracy on repeated text": accuracy}, "documents"),
                    "Next-token accuracy on repeated text by window length",
                )
            ],
            [values_grid({"next-token accuracy": accuracy, "bits per byte": bits})],
        )


def _problems(results: Sequence[Row]) -> Iterator[Section]:
    for task in distinct(select(results, task="problems"), "corpus"):
        exact, tokens, nats = (
            compare(results, task="problems", corpus=task, metric=metric)
            for metric in ("exact_match", "accuracy", "nll")
        )
        panels = {"Exact match": exact, "Token accuracy": tokens}
        curves = Drawing(
            _name("problems", task),
            shares_figure(panels, "problems"),
            f"Exact match and token accuracy of {task} by window length",
        )
        yield Section(
            f"Task: {task}",
            f"{_meaning(task)} Exact match is the share of problems whose whole answer is what greedy decoding says, token "
            "accuracy that of the tokens of answers, each after the right ones before it.".strip(),
            [curves, *_depths(results, task)],
            [values_grid({"exact match": exact, "token accuracy": tokens, "nats per token": nats})],
        )


def _depths(results: Sequence[Row], task: str) -> list[Drawing]:
    rows = select(results, task="by_depth", corpus=task)
    if not rows:
        return []
    pooled = by_distance(rows)
    comparison = compare([*results, *pooled], where=lambda row: float(row["distance"]), task="by_distance")
    fewest = min(row["n"] for row in rows)
    return [
        Drawing(
            _name("by_depth", task),
            heat_map_figure(rows, compare([*results, *pooled], task="problems", corpus=task, metric="exact_match")),
            f"Exact match of {task} by window length and depth, a map a method",
            f"A cell has as few as {fewest} problems"
            + (": LOW_N, only the pattern of many cells says something." if fewest < 30 else "."),
        ),
        Drawing(
            _name("by_distance", task),
            distance_figure(comparison),
            f"Exact match of {task} by distance",
            "The cells of the maps, put together where the answer stands equally far away.",
        ),
    ]


def _perplexity(results: Sequence[Row]) -> Iterator[Section]:
    rows = select(results, task="perplexity")
    names = {"ppl_nonoverlap": "pieces read alone", "ppl_slide": "sliding windows"}
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kind, _, size = row["metric"].partition("@")
        stride = f", a step of {row['stride']} tokens" if "_s" in size else ""
        kinds.setdefault(f"{kind}: {names.get(kind, kind)}{stride}", []).append(row)
    if rows:
        yield Section(
            "Perplexity",
            "Perplexity of the same tokens as published tables take it, and for comparison with those only: text is cut into "
            "pieces of the window's length, each read alone, or read in windows that slide and score their last tokens. Of "
            "longer pieces fewer tokens have little context, so they improve even where nothing extrapolates.",
            grids=[values_grid({kind: compare(own)}) for kind, own in kinds.items()],
        )


def _attention(results: Sequence[Row]) -> Iterator[Section]:
    rows = select(results, task="attention")
    names = distinct(rows, "metric")
    if rows:
        meanings = "; ".join(f"{name.replace('_', ' ')}: {STATISTICS[name]}" for name in names if name in STATISTICS)
        blocks = {name.replace("_", " "): compare(_of_all_layers(select(rows, metric=name))) for name in names}
        yield Section(
            "Attention",
            f"What heads attend to, of the second half of the queries of {rows[0]['n']} windows: means over layers and heads, "
            f"of logits the largest. {meanings[:1].upper()}{meanings[1:]}.",
            grids=[values_grid(blocks)],
        )


def _of_all_layers(rows: Sequence[Row]) -> list[Row]:
    """The mean over layers, of logits the largest, of each method at each length."""
    made: list[Row] = []
    for method in distinct(rows, "method"):
        for length in distinct(select(rows, method=method), "length"):
            own = select(rows, method=method, length=length)
            values = [row["value"] for row in own]
            value = max(values) if own[0]["metric"] == "largest_logit" else sum(values) / len(values)
            made.append({**own[0], "value": value, "ci_low": value, "ci_high": value})
    return made


def _cost(results: Sequence[Row]) -> Iterator[Section]:
    axes = distinct(select(results, task="paired"), "axis")
    comparisons = [compare(results, task="paired", axis=axis) for axis in axes]
    if axes:
        titles = [AXES[axis].title.capitalize() if axis else "Speed of scoring (higher is better)" for axis in axes]
        yield Section(
            "Cost",
            f"Tokens per second in the median batch while the targets above were scored, by one process on {_device(results)}; "
            "what another process measured is left out. A measurement of the implementation as much as of the method.",
            [
                Drawing(
                    "cost",
                    cost_figure(dict(zip(titles, comparisons, strict=True))),
                    "Tokens per second by window length",
                )
            ],
            [cost_grid(one, f"tokens per second{along(axis)}") for axis, one in zip(axes, comparisons, strict=True)],
        )


def _device(results: Sequence[Row]) -> str:
    latest = max(results, key=lambda row: str(row.get("measured_in")))
    return str(latest.get("device") or "the machine of this evaluation")


def _gain_caption(comparison: Comparison) -> str:
    return (
        "Left: bits per byte of the same targets at every window length. Right: what the window gains over a context "
        f"cut to the trained length, {comparison.trained_length} tokens. Dotted: the unmodified model on the "
        "cut context. A triangle gives the value of a point beyond the axis."
    )


def _meaning(task: str) -> str:
    """The first paragraph of the task's docstring, if this version has the task."""
    name = variant_name(task)
    paragraph = (inspect.getdoc(TASKS[name]) or "").partition("\n\n")[0] if name in TASKS else ""
    return re.sub(r"`([^`]*)`", r"“\1”", " ".join(paragraph.split()))


def _name(stem: str, of: str | None) -> str:
    return f"{stem}-{re.sub(r'[^A-Za-z0-9=.]+', '_', of)}" if of else stem
