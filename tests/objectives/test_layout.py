"""Rows of examples: equal to a slow loop, and for causal language modelling to what is made of packed rows."""

import numpy as np
import pytest
from objective_cases import VARIANTS, VOCABULARY, random_text

from lmarch.data.assembly import assemble
from lmarch.objectives import OBJECTIVES, Example, Objective, lay_out_pairs, lay_out_stream

BYTES = np.r_[np.ones(256, np.int32), np.zeros(744, np.int32)]
PAD = VOCABULARY.pad
START = VOCABULARY.bos
TYPES = {"weights": np.float32}


def examples_of(objective: Objective, rng: np.random.Generator, budget: int) -> list[Example]:
    examples = []
    while (length := int(rng.integers(2, 40))) and objective.longest(length) <= budget:
        examples.append(objective.example(random_text(length, rng), VOCABULARY, rng))
        budget -= len(examples[-1].inputs) + len(examples[-1].targets)
    return examples


def check_types(row: dict[str, np.ndarray]) -> None:
    for name, column in row.items():
        assert column.dtype == TYPES.get(name, np.int32), name


def same(row: dict[str, np.ndarray], expected: dict[str, list]) -> None:
    check_types(row)
    assert set(row) == {*expected, "target_bytes"}
    for name, column in expected.items():
        assert row[name].tolist() == column, name
    said = [token for token, weight in zip(expected["targets"], expected["weights"], strict=True) if weight]
    assert row["target_bytes"] == sum(BYTES[token] for token in said)
    assert row["target_bytes"].shape == ()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_is_that_of_a_slow_loop(variant: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        examples = examples_of(OBJECTIVES.build(variant), rng, 150)
        rows = []
        for number, example in enumerate(examples):
            n = len(example.inputs)
            fed = example.targets if example.fed is None else example.fed
            first = n - 1 if example.fed is None else n  # the first token that is answered
            for index, token in enumerate([*example.inputs, *fed]):
                scored = first <= index < first + len(example.targets)
                target = example.targets[index - first] if scored else 0
                told = index >= n and example.fed is not None
                position = example.fed_positions[index - n] if told else index
                block = example.fed_blocks[index - n] if told else 0
                rows.append((token, target, position, number, float(scored), n, block))
        rows += [(PAD, 0, index, -1, 0.0, 0, 0) for index in range(160 - len(rows))]
        names = ("tokens", "targets", "positions", "segment_ids", "weights", "prefix_lengths", "block_positions")
        expected = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        same(lay_out_stream(examples, 160, BYTES, PAD), expected)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "encoder_decoder" in OBJECTIVES.build(v).architectures])
def test_pairs_are_those_of_a_slow_loop(variant: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        examples = examples_of(OBJECTIVES.build(variant), rng, 150)
        source, decoder = [], []
        for number, example in enumerate(examples):
            source += [(token, index, number) for index, token in enumerate(example.inputs)]
            for index, target in enumerate(example.targets):
                read = START if index == 0 else example.targets[index - 1]
                decoder.append((read, target, index, number, 1.0))
        source += [(PAD, index, -1) for index in range(170 - len(source))]
        decoder += [(PAD, 0, index, -1, 0.0) for index in range(160 - len(decoder))]
        sides = ("source_tokens", "source_positions", "source_segment_ids"), source
        expected = dict(zip(sides[0], map(list, zip(*sides[1], strict=True)), strict=True))
        names = ("tokens", "targets", "positions", "segment_ids", "weights")
        expected |= dict(zip(names, map(list, zip(*decoder, strict=True)), strict=True))
        same(lay_out_pairs(examples, 170, 160, BYTES, START, PAD), expected)


def test_causal_rows_are_those_of_assembly() -> None:
    rng, objective = np.random.default_rng(2), OBJECTIVES.build("causal_lm")
    for _ in range(300):
        length = int(rng.integers(2, 50))
        sizes = rng.integers(1, rng.integers(2, 40), length)
        documents = np.repeat(np.arange(length), sizes)[: length + 1]
        if len(documents) <= length or rng.random() < 0.3:  # a last row ends in padding
            documents = documents[: rng.integers(0, length + 1)]
        documents = np.pad(documents, (0, length + 1 - len(documents)), constant_values=-1)
        tokens = np.where(documents < 0, PAD, random_text(length + 1, rng))
        made = assemble(tokens[None], documents[None], BYTES, mask_documents=True, restart_positions=True)
        pieces = [tokens[documents == document].astype(np.int32) for document in np.unique(documents[documents >= 0])]
        row = lay_out_stream(
            [
                objective.example(piece, VOCABULARY, rng) if len(piece) > 1 else Example(piece, piece[:0])
                for piece in pieces
            ],
            length,
            BYTES,
            PAD,
        )
        check_types(row)
        for name in ("tokens", "positions", "segment_ids", "weights", "target_bytes"):
            assert np.array_equal(row[name], made[name][0]), name
            assert row[name].dtype == made[name].dtype
        scored = row["weights"] > 0
        assert np.array_equal(row["targets"][scored], made["targets"][0][scored])


def test_only_a_last_token_that_predicts_nothing_is_left_out() -> None:
    text = np.arange(5, dtype=np.int32)
    shifted = Example(text[:2], text[2:])
    row = lay_out_stream([shifted], 4, BYTES, PAD)
    assert row["tokens"].tolist() == [0, 1, 2, 3]
    assert row["targets"].tolist() == [0, 2, 3, 4]
    told = Example(text[:2], text[2:], fed=text[2:], fed_positions=text[2:], fed_blocks=text[2:])
    for examples, length in (([shifted], 3), ([told], 4), ([shifted, shifted], 8), ([shifted, told], 9)):
        with pytest.raises(AssertionError, match=f"tokens in a row of {length}"):
            lay_out_stream(examples, length, BYTES, PAD)
    with pytest.raises(AssertionError, match="3 tokens in a row of 2"):
        lay_out_pairs([shifted], 2, 2, BYTES, START, PAD)
    with pytest.raises(AssertionError):
        lay_out_pairs([told], 9, 9, BYTES, START, PAD)


def test_a_row_may_be_empty() -> None:
    assert lay_out_stream([], 3, BYTES, PAD)["segment_ids"].tolist() == [-1, -1, -1]
    assert lay_out_pairs([], 2, 3, BYTES, START, PAD)["source_tokens"].tolist() == [PAD, PAD]
