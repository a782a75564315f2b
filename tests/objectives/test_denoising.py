"""Span corruption and UL2: the released rule, its rates, its shape, uniform spans, and enough sentinels."""

import itertools
from collections import Counter

import numpy as np
import pytest
from objective_cases import VOCABULARY, asked, drawn, example_of, random_text

from lmarch.errors import UserError
from lmarch.objectives import OBJECTIVES, Draws, Example, Objective

FIRST, EOS = VOCABULARY.first_special, VOCABULARY.eos


def spelled_out(text: np.ndarray, example: Example, first: int) -> tuple[list[int], list[int]]:
    """Inputs and targets again, in a slow loop over the tokens of the text; spans are read off the targets."""
    spans, inputs, targets = [], [], []
    for token in example.targets[:-1]:
        if token >= first:
            spans.append(0)
        else:
            spans[-1] += 1
    kept, at = [], 0
    for token in example.inputs[:-1]:
        kept += [token] if token < first else []
        if token >= first:
            number = token - first
            inputs += [*text[at : at + len(kept)], token]
            at += len(kept)
            targets += [token, *text[at : at + spans[number]]]
            at += spans[number]
            kept = []
    assert at == len(text)
    return [*inputs, EOS], [*targets, EOS]


@pytest.mark.parametrize("variant", ["span_corruption", "span_corruption:density=0.5,mean_span=1,sentinels=300"])
def test_kept_and_noise_parts_alternate_from_a_kept_one(variant: str) -> None:
    objective, rng = OBJECTIVES.build(variant), np.random.default_rng(0)
    for length in [2, 3, 4, 5, *rng.integers(6, 600, 100)]:
        text = random_text(length, rng)
        example = example_of(objective, text, rng)
        inputs, targets = spelled_out(text, example, FIRST)
        assert inputs == example.inputs.tolist()
        assert targets == example.targets.tolist()
        for side in (example.inputs, example.targets):
            sentinels = side[side >= FIRST]
            assert np.array_equal(sentinels, FIRST + np.arange(len(sentinels)))
        marks = np.flatnonzero(example.inputs >= FIRST)
        assert marks[0] > 0
        assert (np.diff(marks) > 1).all()
        assert marks[-1] == len(example.inputs) - 2


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3), (0.5, 3), (0.15, 8), (0.5, 64)])
def test_rates_are_those_asked_for(density: float, mean_span: float) -> None:
    objective = OBJECTIVES.build(f"span_corruption:density={density},mean_span={mean_span}")
    tokens = noise = spans = wanted = 0
    lengths = np.random.default_rng(3).integers(256, 513, 2_500)
    texts = [np.zeros(length, np.int32) for length in lengths]
    for length, example in zip(lengths, asked(objective, texts, Draws.of_rows(0, 1, np.arange(2_500))), strict=True):
        said = int((example.targets >= FIRST).sum())
        assert len(example.targets) == round(length * density) + said + 1
        assert objective.largest(length) == (len(example.inputs), len(example.targets))  # exact, not a bound
        tokens, noise, spans = tokens + length, noise + len(example.targets) - said - 1, spans + said
        wanted += length * density
    assert abs(noise - wanted) / tokens < 1e-3
    assert abs(noise / spans / mean_span - 1) < (
        0.02 if mean_span < 64 else 0.15
    )  # whole spans: 128 .. 256 in 2, 3 or 4


def test_every_way_to_cut_is_equally_likely() -> None:
    objective = OBJECTIVES.build("span_corruption:density=0.5,mean_span=2")  # 12 tokens: 6 noise, 6 kept, 3 spans each
    counts: Counter[tuple[int, ...]] = Counter()
    for example in drawn(objective, 12, 10_000):
        sides = ((example.inputs, 0), (example.targets, 1))
        cuts = [tuple(np.flatnonzero(side >= FIRST) - shift) for side, shift in sides]
        counts[tuple(itertools.chain(*cuts))] += 1
    assert len(counts) == 10 * 10  # C(5, 2) ways for the kept and for the noise tokens
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 148  # chi-square, 99 degrees of freedom: 1 in 1,000


def test_too_few_sentinels_are_refused_before_and_while_drawing() -> None:
    objective = OBJECTIVES.build("span_corruption:sentinels=10")
    objective.largest(200)
    message = "sentinels=10 are too few: a text of 512 tokens has 26 spans at density=0.15 and mean_span=3; write sentinels=26"
    with pytest.raises(UserError, match=message):
        objective.largest(512)
    with pytest.raises(UserError, match=message):
        example_of(objective, np.zeros(512, np.int32), np.random.default_rng())
    with pytest.raises(UserError, match=r"has 171 spans .*; write sentinels=171"):
        OBJECTIVES.build("ul2").largest(1024)
    OBJECTIVES.build("ul2:sentinels=171").largest(1024)
    OBJECTIVES.build("ul2").largest(600)


def modes(objective: Objective, length: int, count: int) -> list[tuple[str, Example]]:
    names = objective.special_tokens()
    return [(names[example.inputs[0] - FIRST], example) for example in drawn(objective, length, count)]


def test_seven_denoisers_are_drawn_equally_often() -> None:
    objective = OBJECTIVES.build("ul2")
    kinds = Counter((mode, len(e.targets)) for mode, e in modes(objective, 512, 7_000))
    spans = {("<R>", 3, 77): 26, ("<R>", 8, 77): 10, ("<X>", 3, 256): 85, ("<X>", 8, 256): 32}
    spans |= {("<X>", 64, 77): 1, ("<X>", 64, 256): 4}
    expected = {(mode, noise + count + 1) for (mode, _, noise), count in spans.items()} | {("<S>", 128)}
    assert set(kinds) == expected
    assert sum((n - 1000) ** 2 / 1000 for n in kinds.values()) < 22.5  # chi-square, 6 degrees of freedom: 1 in 1,000


def test_modes_are_drawn_at_their_rates() -> None:
    drawn_modes = Counter(
        mode for mode, _ in modes(OBJECTIVES.build("ul2:regular=1,sequential=2,extreme=1"), 64, 4_000)
    )
    assert abs(drawn_modes["<S>"] / 4_000 - 0.5) < 0.03
    assert abs(drawn_modes["<R>"] / 4_000 - 0.25) < 0.03
    assert set(Counter(mode for mode, _ in modes(OBJECTIVES.build("ul2:regular=0,extreme=0"), 64, 50))) == {"<S>"}


def test_the_sequential_denoiser_asks_for_the_last_quarter() -> None:
    for _, example in modes(OBJECTIVES.build("ul2:regular=0,extreme=0"), 100, 3):
        assert np.array_equal(example.inputs[1:], np.arange(75))
        assert np.array_equal(example.targets, np.arange(75, 100))
