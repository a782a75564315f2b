"""What every objective promises: the text comes back, sizes are bounded, and the given generator decides alone."""

import dataclasses

import numpy as np
import pytest
from objective_cases import VARIANTS, VOCABULARY, asked, drawn, example_of, random_text

from lmarch.errors import UserError
from lmarch.objectives import ARCHITECTURE_NAMES, OBJECTIVES, Draws, objective_for

LENGTHS = [*range(2, 40), 63, 64, 65, 127, 128, 255, 256, 257, 511, 512, 599, 600]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_text_comes_back(variant: str) -> None:
    objective, rng = OBJECTIVES.build(variant), np.random.default_rng(0)
    texts = [random_text(length, rng) for length in [*LENGTHS, *rng.integers(2, 601, 1000)]]
    for text, example in zip(texts, asked(objective, texts, Draws.of_rows(0, 0, np.arange(len(texts)))), strict=True):
        length = len(text)
        assert np.array_equal(objective.rebuild(example, VOCABULARY), text)
        assert {part.dtype for part in example if part is not None} == {np.dtype(np.int32)}
        sizes = objective.largest(length)
        assert 0 < len(example.inputs) <= sizes.inputs
        assert 0 < len(example.targets) <= sizes.targets
        assert len(example.inputs) + len(example.targets) <= objective.longest(length)
        if objective.overlapping:
            assert np.array_equal(np.concatenate([example.inputs, example.targets]), text)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_largest_sizes_are_reached(variant: str) -> None:
    objective = OBJECTIVES.build(variant)
    for length in (2, 3, 4, 7, 12, 20):
        examples = drawn(objective, length, 400)
        sizes = objective.largest(length)
        assert max(len(example.inputs) for example in examples) == sizes.inputs
        assert max(len(example.targets) for example in examples) == sizes.targets
        assert max(len(example.inputs) + len(example.targets) for example in examples) == objective.longest(length)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_longer_text_is_never_a_smaller_example(variant: str) -> None:
    objective = OBJECTIVES.build(variant)
    sizes = np.asarray([(*objective.largest(n), objective.longest(n)) for n in range(2, 601)])
    assert (np.diff(sizes, axis=0) >= 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_example_depends_on_its_own_text_and_key_alone(variant: str) -> None:
    """Not on what is asked beside it: whole batches, on any number of hosts, hold the same rows."""
    objective, rng = OBJECTIVES.build(variant), np.random.default_rng(3)
    forwards, backwards = drawn(objective, 200, 30), []
    for index in reversed(range(30)):
        texts = [random_text(length, rng) for length in rng.integers(2, 300, 4)]
        texts[index % 4] = (np.arange(200) % 256).astype(np.int32)
        numbers = np.arange(1000, 1004)
        numbers[index % 4] = index
        backwards.append(asked(OBJECTIVES.build(variant), texts, Draws.of_rows(200, 0, numbers))[index % 4])
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert all(a is b is None or np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    different = {tuple(part.tobytes() for part in example if part is not None) for example in forwards}
    only_one = variant == "causal_lm" or "density=0.5,mean_span=1," in variant  # every second token: nothing to draw
    assert (len(different) == 1) == only_one


@pytest.mark.parametrize("variant", VARIANTS)
def test_added_ids_are_those_it_names(variant: str) -> None:
    objective = OBJECTIVES.build(variant)
    names = objective.special_tokens()
    assert len(set(names)) == len(names)
    first, rng = VOCABULARY.first_special, np.random.default_rng(1)
    for length in (2, 50, 600):
        for part in example_of(objective, random_text(length, rng), rng)[:3]:
            if part is not None:
                assert not np.isin(part, [VOCABULARY.pad]).any()
                assert part.max() < first + len(names)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_says_where_it_is_defined_and_why_not_elsewhere(name: str) -> None:
    cls = OBJECTIVES[name]
    assert sorted([*cls.architectures, *cls.undefined]) == sorted(ARCHITECTURE_NAMES)
    assert dataclasses.is_dataclass(cls)
    for architecture in cls.architectures:
        assert objective_for(name, architecture) == OBJECTIVES.build(name)
    for architecture, reason in cls.undefined.items():
        with pytest.raises(UserError, match=f"{name} is not defined for {architecture}: {reason}; objectives that are"):
            objective_for(name, architecture)


def splits(variant: str, length: int, count: int) -> np.ndarray:
    return np.asarray([len(example.inputs) for example in drawn(OBJECTIVES.build(variant), length, count)])


@pytest.mark.parametrize("variant", ["prefix_lm", "causal_lm:loss=suffix"])
def test_prefixes_have_every_length_equally_often(variant: str) -> None:
    counts = np.bincount(splits(variant, 21, 20_000), minlength=21)[1:]
    assert len(counts) == 20
    assert ((counts - 1000) ** 2 / 1000).sum() < 45.3  # chi-square, 19 degrees of freedom: 1 in 1,600


def test_causal_language_modelling_gives_one_token() -> None:
    assert (splits("causal_lm", 21, 100) == 1).all()


@pytest.mark.parametrize(
    ("variant", "architecture", "message"),
    [
        ("causal_lm", "decoder", "unknown architecture 'decoder'; did you mean"),
        ("causal", "causal_decoder", "unknown objective 'causal'; did you mean 'causal_lm'"),
        ("causal_lm:loss=prefix", "causal_decoder", "loss='prefix' is not one of all, suffix"),
        ("span_corruption:density=0", "encoder_decoder", "density=0.0 must be a share between 0 and 1, both excluded"),
        ("span_corruption:density=1", "encoder_decoder", "density=1.0 must be a share between 0 and 1, both excluded"),
        ("span_corruption:mean_span=0.5", "encoder_decoder", "span_corruption mean_span=0.5 must be 1 token or more"),
        ("span_corruption:sentinels=0", "encoder_decoder", "span_corruption sentinels=0 must be 1 or more"),
        ("ul2:sentinels=0", "encoder_decoder", "ul2 sentinels=0 must be 1 or more"),
        ("ul2:regular=-1", "encoder_decoder", "ul2 regular=-1.0 must be a rate of 0 or more"),
        ("ul2:regular=0,sequential=0,extreme=0", "encoder_decoder", "ul2 extreme=0.0 must be above 0, or else"),
        ("ul2:rates=3", "encoder_decoder", "unknown field 'rates'"),
        ("blank_infilling:density=1.5", "prefix_decoder", "density=1.5 must be a share between 0 and 1, both excluded"),
        ("blank_infilling:mean_span=0", "prefix_decoder", "blank_infilling mean_span=0.0 must be 1 token or more"),
        ("blank_infilling:long=1.1", "prefix_decoder", "blank_infilling long=1.1 must be a share between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(variant: str, architecture: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        objective_for(variant, architecture)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
