"""The result in a few plain sentences, computed from the numbers and no bolder than their intervals."""

import math
from collections.abc import Mapping, Sequence

from lmarch.evaluation.axes import AXES
from lmarch.reporting import numbers
from lmarch.reporting.results import Comparison, Estimate, Row, compare, distinct, select


def verdicts(results: Sequence[Row]) -> list[str]:
    """Of text along each axis, then of each task in which something can be said."""
    said, tasks = [], distinct(select(results, task="problems"), "corpus")
    for axis in distinct(select(results, task="paired"), "axis"):
        name = f"{AXES[axis].title.capitalize()}: " if axis else "Text: " if tasks else ""
        said.append(name + verdict(compare(results, task="paired", axis=axis)))
    for task in tasks:
        said.append(found_beyond(compare(results, task="problems", corpus=task, metric="exact_match")))
    return [text for text in said if text]


def verdict(comparison: Comparison) -> str:
    """What the longest window costs the unmodified model, and which method makes the most of that window."""
    length = comparison.lengths[-1]
    if length <= comparison.trained_length:
        return f"No window longer than the trained length of {comparison.trained_length} tokens was evaluated."
    sentences = [_cost_of_length(comparison, length), _best_gain(comparison, length)]
    low = [row["n"] for row in comparison.rows.values() if row.get("low_n")]
    if low:
        sentences.append(f"LOW_N: only {min(low)} documents were scored.")
    return " ".join(sentences)


def found_beyond(comparison: Comparison) -> str:
    """Which method finds most in the longest window, beside the crop control and the unmodified model.

    Args:
      comparison: exact match of one task. Empty, if it has no window with a crop control beyond the trained length.
    """
    length, labels, vanilla = comparison.lengths[-1], comparison.labels, comparison.vanilla
    gains = {method: gain for method in comparison.methods if (gain := comparison.gain(method, length))}
    crop = comparison.crop_share(length)
    if length <= comparison.trained_length or not gains or crop is None:
        return ""
    best, gain, helped = _largest(gains)
    (task,) = {str(row["corpus"]) for row in comparison.rows.values()}
    where = f"of {task} at {comparison.multiple(length)}×"
    finding = (
        f"{labels[best]}{_among(gains, 'best')} solves {_share(comparison.share(best, length))} and the unmodified model "
        f"with its context cut to the trained length {_share(crop)}: {_signed(gain.percent, 1)} points "
        f"{_evidence(gain.percent, 1)}."
    )
    if not helped:
        return f"No method is shown to find what lies beyond the trained length: {where}, {finding}"
    whole = comparison.share(vanilla, length) if vanilla and vanilla != best else None
    rest = f" Vanilla {labels[vanilla]} solves {_share(whole)}." if vanilla and whole else ""
    return f"What lies beyond the trained length is found: {where}, {finding}{rest}"


def _share(estimate: Estimate | None) -> str:
    assert estimate is not None
    return f"{numbers.number(estimate.value, 1)} % {numbers.bracketed(estimate, 1)}"


def _cost_of_length(comparison: Comparison, length: float) -> str:
    if comparison.trained_length not in comparison.lengths:
        return "The trained length was not evaluated, so what a longer window costs is unknown."
    vanilla = comparison.vanilla
    if vanilla is None:
        return "The method that the model was trained with is not among the results."
    subject = f"Vanilla {comparison.labels[vanilla]} at {comparison.multiple(length)}× its trained length"
    cost = comparison.cost(vanilla, length)
    if cost is None:
        return f"{subject} was not evaluated."
    if not math.isfinite(cost.value):
        return f"{subject} breaks down: some of its losses are not finite."
    size, evidence = _signed(cost), _evidence(cost)
    if not cost.interval.excludes(0.0):
        return f"{subject} cannot be told apart from itself at 1×: {size} bits per byte {evidence}."
    if cost.value > 0:
        return f"{subject} costs {size} bits per byte {_bracketed(cost)} more than at 1×; the interval excludes 0."
    return f"{subject} improves on 1×: {size} bits per byte {evidence}."


def _largest(gains: Mapping[str, Estimate]) -> tuple[str, Estimate, bool]:
    """The method with the largest gain proven above 0 if there is one, else with the largest; and whether it is proven."""
    helped = {method: gain for method, gain in gains.items() if gain.interval.low > 0}
    best, gain = max((helped or gains).items(), key=lambda item: item[1].value)
    return best, gain, bool(helped)


def _best_gain(comparison: Comparison, length: float) -> str:
    """What the largest gain says."""
    gains = {method: gain for method in comparison.methods if (gain := comparison.gain(method, length))}
    gains = {method: gain for method, gain in gains.items() if math.isfinite(gain.value)}
    if not gains:
        return f"No method has a finite context gain at {comparison.multiple(length)}×."
    best, gain, helped = _largest(gains)
    claim = f"a context gain of {_signed(gain)} bits per byte{_among(gains, 'largest')} {_evidence(gain)}."
    label = comparison.labels[best]
    if helped:
        return f"The longer context helps most with {label}: {claim}"
    if all(other.interval.high < 0 for other in gains.values()):
        whom = f"every method, {label} least" if len(gains) > 1 else label
        return f"The longer context hurts {whom}: {claim}"
    return f"No method is shown to use the longer context; the best, {label}, has {claim}"


def _among(gains: Mapping[str, Estimate], which: str) -> str:
    """The best of several is not one of one: its interval is as wide as that of one that was asked for alone."""
    return f", the {which} of {len(gains)}," if len(gains) > 1 else ""


def _signed(estimate: Estimate, places: int | None = None) -> str:
    return numbers.number(estimate.value, numbers.decimals([estimate]) if places is None else places, sign=True)


def _bracketed(estimate: Estimate, places: int | None = None) -> str:
    return numbers.bracketed(estimate, numbers.decimals([estimate]) if places is None else places)


def _evidence(estimate: Estimate, places: int | None = None) -> str:
    verb = "excludes" if estimate.interval.excludes(0.0) else "includes"
    return f"{_bracketed(estimate, places)}; the interval {verb} 0"
