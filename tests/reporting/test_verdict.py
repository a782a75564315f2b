import math

from synthetic_results import LENGTHS, bare, row

import lmarch.reporting.verdict
from lmarch.reporting.results import compare


def verdict(results):
    return lmarch.reporting.verdict.verdict(compare(results))


def rope(**changes):
    """The unmodified model at 1× and, changed, at 8×."""
    return [row("rope", "rope", None, 128, 1.64), row("rope", "rope", None, 1024, 1.64) | changes]


def difference(key, value, low, high):
    return {key: value, f"{key}_low": low, f"{key}_high": high}


def test_a_cost_and_a_gain_beyond_doubt(results):
    assert verdict(results) == (
        "Vanilla rope at 8× its trained length costs +1.96 bits per byte [1.95, 1.98] more than at 1×; "
        "the interval excludes 0. The longer context helps most with rerope w64: "
        "a context gain of +0.02 bits per byte, the largest of 4, [0.01, 0.04]; the interval excludes 0."
    )


def test_a_difference_within_noise_is_called_so():
    text = verdict(rope(**difference("vs_trained", 0.01, -0.03, 0.05), **difference("gain", 0.02, -0.01, 0.05)))
    assert "cannot be told apart from itself at 1×: +0.01 bits per byte [−0.03, 0.05]; the interval includes 0." in text
    assert "No method is shown to use the longer context; the best, rope, has a context gain of +0.02" in text
    assert text.count("the interval includes 0") == 2
    assert "excludes" not in text


def test_an_improvement_beyond_doubt():
    text = verdict(rope(**difference("vs_trained", -0.05, -0.08, -0.02), **difference("gain", 0.05, 0.02, 0.08)))
    assert "improves on 1×: −0.05 bits per byte [−0.08, −0.02]; the interval excludes 0." in text
    assert "helps most with rope: a context gain of +0.05 bits per byte [0.02, 0.08]; the interval excludes 0." in text


def test_harm_to_one_and_to_every_method(results):
    harmed = [result for result in results if result["method"] != "rerope:window=64"]
    assert "hurts every method, ntk ×8 least: a context gain of −0.77" in verdict(harmed)
    assert "hurts rope: a context gain of −1.96" in verdict([r for r in results if r["method"] == "rope"])


def test_the_proven_gain_is_preferred_to_a_larger_doubtful_one(results):
    lucky = row("yarn", "yarn", 8.0, 1024, 1.50) | difference("gain", 0.14, -0.02, 0.30)
    assert "helps most with rerope w64" in verdict([*results, lucky])


def test_non_finite_losses_are_a_breakdown():
    lost = {"value": math.inf, **difference("vs_trained", math.inf, 0.5, math.inf)}
    text = verdict(rope(**lost, **difference("gain", -math.inf, -math.inf, -0.5)))
    assert "Vanilla rope at 8× its trained length breaks down: some of its losses are not finite." in text
    assert "No method has a finite context gain at 8×." in text


def test_missing_methods_and_lengths(results):
    modified = [result for result in results if result["method"] != "rope"]
    assert "The method that the model was trained with is not among the results." in verdict(modified)
    short = [result for result in results if (result["method"], result["length"]) != ("rope", 1024)]
    assert "Vanilla rope at 8× its trained length was not evaluated." in verdict(short)
    longer = [result for result in results if result["length"] > 128]
    assert "The trained length was not evaluated, so what a longer window costs is unknown." in verdict(longer)
    within = [row("rope", "rope", None, 128, 1.64)]
    assert verdict(within) == "No window longer than the trained length of 128 tokens was evaluated."


def test_few_documents_are_confessed(broken):
    assert verdict(broken).endswith("LOW_N: only 12 documents were scored.")


def test_lengths_between_the_octaves():
    rows = [row("rope", "rope", None, length, 1.64) for length in (*LENGTHS[:1], 160)]
    assert "at 1.25× its trained length" in verdict(rows)


def solved(method, value, crop=0.1, half=0.04, **changes):
    """Exact match of a method at 8×."""
    gain = value - crop
    return bare(method, method, None, 1024, value) | {
        "task": "problems",
        "corpus": "needle",
        "metric": "exact_match",
        "ci_low": value - half,
        "ci_high": value + half,
        "crop": crop,
        "crop_low": crop - half,
        "crop_high": crop + half,
        **difference("gain", gain, gain - half, gain + half),
        **changes,
    }


def found(*results):
    return lmarch.reporting.verdict.found_beyond(compare(results))


def test_the_method_that_finds_most_stands_beside_the_crop_control_and_the_unmodified_model():
    assert found(solved("rope", 0.05), solved("rerope", 0.95), solved("yarn", 0.5)) == (
        "What lies beyond the trained length is found: of needle at 8×, rerope, the best of 3, solves 95.0 % [91.0, 99.0] and "
        "the unmodified "
        "model with its context cut to the trained length 10.0 % [6.0, 14.0]: +85.0 points [81.0, 89.0]; the "
        "interval excludes 0. Vanilla rope solves 5.0 % [1.0, 9.0]."
    )


def test_nothing_is_found_unless_an_interval_says_so():
    text = found(solved("rope", 0.05), solved("rerope", 0.13))
    assert text.startswith(
        "No method is shown to find what lies beyond the trained length: of needle at 8×, rerope, the best of 2, "
    )
    assert text.endswith("+3.0 points [−1.0, 7.0]; the interval includes 0.")


def test_a_larger_gain_that_is_not_proven_is_not_preferred():
    lucky = solved("yarn", 0.9, **difference("gain", 0.8, -0.1, 1.0))
    assert "of needle at 8×, rerope, the best of 2, solves 60.0 %" in found(lucky, solved("rerope", 0.6))


def test_nothing_is_said_of_problems_without_a_crop_control_or_within_the_trained_length():
    assert found(bare("rope", "rope", None, 1024, 0.5, task="problems", corpus="copy", metric="exact_match")) == ""
    assert found(solved("rope", 0.9, length=128)) == ""


def test_every_axis_and_every_task_has_its_sentences(results):
    both = [*results, solved("rope", 0.05), solved("rerope", 0.95)]
    text, problems = lmarch.reporting.verdict.verdicts([row | {"axis": None} for row in both])
    assert text.startswith("Text: Vanilla rope at 8×")
    assert problems.startswith("What lies beyond")
