"""GLM's blank infilling: parts A and B against a slow loop, spans in any order, rates, places."""

from collections import Counter

import numpy as np
import pytest
from objective_cases import VOCABULARY, asked, drawn, example_of, random_text

from lmarch.objectives import OBJECTIVES, Draws, Example

MASK, LONG_MASK, START, END = range(VOCABULARY.first_special, VOCABULARY.first_special + 4)


def spans_of(text: np.ndarray, example: Example) -> list[tuple[int, int]]:
    """(start, length) in the text of each span in the order it is said, found from its mask by counting."""
    lengths: dict[int, int] = {}
    for token, position in zip(example.fed, example.fed_positions, strict=True):
        lengths[position] = 0 if token == START else lengths[position] + 1
    starts, at = {}, 0
    for index, token in enumerate(example.inputs):
        if token in (MASK, LONG_MASK):
            starts[index] = at
            at += lengths[index]
        else:
            at += 1
    assert at == len(text)
    return [(starts[index], length) for index, length in lengths.items()]


@pytest.mark.parametrize("variant", ["blank_infilling", "blank_infilling:density=0.6,mean_span=1,long=0.1"])
def test_parts_and_positions_are_those_of_a_slow_loop(variant: str) -> None:
    objective, rng = OBJECTIVES.build(variant), np.random.default_rng(0)
    for length in [2, 3, 4, 5, *rng.integers(6, 600, 100)]:
        text = random_text(length, rng)
        example = example_of(objective, text, rng)
        spans = spans_of(text, example)
        part_a, mask_of, index = [], {}, 0
        while index < length:  # part A
            span = next((size for start, size in spans if start == index), None)
            if span is None:
                part_a.append(text[index])
                index += 1
            else:
                mask_of[index] = len(part_a)
                part_a.append(LONG_MASK if example.inputs[len(part_a)] == LONG_MASK else MASK)
                index += span
        fed, targets, positions, blocks = [], [], [], []
        for start, size in spans:  # part B
            fed += [START, *text[start : start + size]]
            targets += [*text[start : start + size], END]
            positions += [mask_of[start]] * (size + 1)
            blocks += range(1, size + 2)
        assert part_a == example.inputs.tolist()
        assert fed == example.fed.tolist()
        assert targets == example.targets.tolist()
        assert positions == example.fed_positions.tolist()
        assert blocks == example.fed_blocks.tolist()
        assert (np.diff(sorted(mask_of.values())) > 1).all()  # something is kept between two masks


def test_short_spans_cover_the_density_in_spans_of_the_mean() -> None:
    objective = OBJECTIVES.build("blank_infilling:long=0")
    tokens = noise = spans = 0
    lengths = []
    texts = [np.zeros(length, np.int32) for length in np.random.default_rng(3).integers(256, 513, 2_500)]
    for text, example in zip(texts, asked(objective, texts, Draws.of_rows(0, 1, np.arange(2_500))), strict=True):
        length = len(text)
        said = int((example.fed == START).sum())
        assert len(example.targets) == round(length * 0.15) + said
        tokens, noise, spans = tokens + length, noise + len(example.targets) - said, spans + said
        lengths += np.diff(np.flatnonzero(example.fed_blocks == 1)).tolist()
    assert abs(noise / tokens - 0.15) < 1e-3
    assert abs(noise / spans / 3 - 1) < 0.02
    assert abs(np.var(lengths) / 2 - 1) < 0.15  # 1 + Poisson(2), a little less for the fixed sum


def test_spans_are_said_in_every_order_equally_often() -> None:
    objective = OBJECTIVES.build("blank_infilling:density=0.3,long=0")  # 40 tokens: 12 noise, 4 spans
    orders = Counter(
        tuple(np.argsort(example.fed_positions[example.fed_blocks == 1])) for example in drawn(objective, 40, 4_800)
    )
    assert len(orders) == 24
    assert sum((n - 200) ** 2 / 200 for n in orders.values()) < 49.8  # chi-square, 23 degrees of freedom: 1 in 1,000


def test_spans_are_anywhere_equally_often() -> None:
    objective = OBJECTIVES.build("blank_infilling:density=0.25,mean_span=1,long=0")  # 8 tokens: 2 spans of one token
    places = Counter(tuple(np.flatnonzero(example.inputs == MASK)) for example in drawn(objective, 8, 4_200))
    assert len(places) == 21  # of 28 pairs of places, 7 touch
    assert sum((n - 200) ** 2 / 200 for n in places.values()) < 45.4  # chi-square, 20 degrees of freedom: 1 in 1,000


def test_a_long_span_is_the_second_half_or_more_of_half_of_the_texts() -> None:
    examples = drawn(OBJECTIVES.build("blank_infilling"), 40, 4_000)
    long = [example for example in examples if LONG_MASK in example.inputs]
    assert abs(len(long) / 4_000 - 0.5) < 0.03
    for example in long:
        kept = len(example.inputs) - 1
        assert example.inputs.tolist() == [*range(kept), LONG_MASK]
        assert example.fed.tolist() == [START, *range(kept, 40)]
    counts = Counter(len(example.targets) - 1 for example in long)
    assert set(counts) == set(range(20, 40))
    expected = len(long) / 20
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 43.8  # 19 degrees of freedom: 1 in 1,000
