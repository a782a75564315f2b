"""Rows of examples: equal to a slow loop, and for causal language modelling to what is made of packed rows."""

import numpy as np
import pytest
from objective_cases import VARIANTS, VOCABULARY, example_of, random_text

from lmarch.data.assembly import assemble
from lmarch.data.questions import Questions
from lmarch.objectives import (
    OBJECTIVES,
    Batch,
    Collator,
    Draws,
    Example,
    Examples,
    Objective,
    collate_pairs,
    collate_stream,
)

BYTES = np.r_[np.ones(256, np.int32), np.zeros(744, np.int32)]
PAD = VOCABULARY.pad
START = VOCABULARY.bos
TYPES = {"weights": np.float32}


def examples_of(objective: Objective, rng: np.random.Generator, budget: int) -> list[Example]:
    examples = []
    while (length := int(rng.integers(2, 40))) and objective.longest(length) <= budget:
        examples.append(example_of(objective, random_text(length, rng), rng))
        budget -= len(examples[-1].inputs) + len(examples[-1].targets)
    return examples


def check_types(batch: Batch[np.ndarray]) -> None:
    for name, column in batch._asdict().items():
        assert column is None or column.dtype == TYPES.get(name, np.int32), name


def groups_of(variant: str, seed: int) -> list[list[Example]]:
    """The examples of twenty rows, one of which has none."""
    rng = np.random.default_rng(seed)
    return [[] if row == 7 else examples_of(OBJECTIVES.build(variant), rng, 150) for row in range(20)]


def joined(groups: list[list[Example]]) -> tuple[Examples, np.ndarray]:
    return Examples.of([one for group in groups for one in group]), np.array([len(group) for group in groups])


def same(batch: Batch[np.ndarray], expected: list[dict[str, list]]) -> None:
    check_types(batch)
    assert len(batch.tokens) == len(expected)
    there = {name for name, column in batch._asdict().items() if column is not None}
    for number, row in enumerate(expected):
        assert there == {*row, "target_bytes"}
        for name, column in row.items():
            assert getattr(batch, name)[number].tolist() == column, name
        said = [token for token, weight in zip(row["targets"], row["weights"], strict=True) if weight]
        assert batch.target_bytes[number] == sum(BYTES[token] for token in said)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_is_that_of_a_slow_loop(variant: str) -> None:
    groups, expected = groups_of(variant, seed=0), []
    for examples in groups:
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
        expected.append(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    same(collate_stream(*joined(groups), 160, BYTES, PAD), expected)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "encoder_decoder" in OBJECTIVES.build(v).architectures])
def test_pairs_are_those_of_a_slow_loop(variant: str) -> None:
    groups, expected = groups_of(variant, seed=1), []
    for examples in groups:
        source, decoder = [], []
        for number, example in enumerate(examples):
            source += [(token, index, number) for index, token in enumerate(example.inputs)]
            for index, target in enumerate(example.targets):
                read = START if index == 0 else example.targets[index - 1]
                decoder.append((read, target, index, number, 1.0))
        source += [(PAD, index, -1) for index in range(170 - len(source))]
        decoder += [(PAD, 0, index, -1, 0.0) for index in range(160 - len(decoder))]
        sides = ("source_tokens", "source_positions", "source_segment_ids"), source
        row = dict(zip(sides[0], map(list, zip(*sides[1], strict=True)), strict=True))
        names = ("tokens", "targets", "positions", "segment_ids", "weights")
        expected.append(row | dict(zip(names, map(list, zip(*decoder, strict=True)), strict=True)))
    same(collate_pairs(*joined(groups), 170, 160, BYTES, start=START, pad=PAD), expected)


def test_causal_rows_are_those_of_assembly() -> None:
    """A causal decoder's shortcut through no objective at all, by rows of documents of any size, single tokens among them."""
    rng, words = np.random.default_rng(2), VOCABULARY._replace(bos=START)
    for length in range(2, 50):
        rows = []
        for _ in range(6):
            sizes = rng.integers(1, rng.integers(2, 40), length)
            documents = np.repeat(np.arange(length), sizes)[: length + 1]
            if len(documents) <= length or rng.random() < 0.3:  # a last row ends in padding
                documents = documents[: rng.integers(0, length + 1)]
            rows.append(np.pad(documents, (0, length + 1 - len(documents)), constant_values=-1))
        documents = np.stack(rows)
        tokens = np.where(documents < 0, PAD, rng.integers(0, 258, documents.shape))
        made = assemble(tokens, documents, BYTES, mask_documents=True, restart_positions=True)
        asked = Questions(OBJECTIVES.build("causal_lm"), Collator("causal_decoder", (length,), words, False))
        batch = asked.batch(tokens, documents, BYTES, Draws.of_rows(0, 0, np.arange(6)))
        check_types(batch)
        for name in ("tokens", "positions", "segment_ids", "weights", "target_bytes"):
            assert np.array_equal(getattr(batch, name), getattr(made, name)), name
        scored = batch.weights > 0
        assert np.array_equal(batch.targets[scored], made.targets[scored])


def test_only_a_last_token_that_predicts_nothing_is_left_out() -> None:
    text = np.arange(5, dtype=np.int32)
    shifted = Example(text[:2], text[2:])
    row = collate_stream(*joined([[shifted]]), 4, BYTES, PAD)
    assert row.tokens.tolist() == [[0, 1, 2, 3]]
    assert row.targets.tolist() == [[0, 2, 3, 4]]
    told = Example(text[:2], text[2:], fed=text[2:], fed_positions=text[2:], fed_blocks=text[2:])
    for examples, length in (([shifted], 3), ([told], 4), ([shifted, shifted], 8)):
        with pytest.raises(AssertionError, match=f"tokens in a row of {length}"):
            collate_stream(*joined([examples]), length, BYTES, PAD)
    with pytest.raises(AssertionError, match="3 tokens in a row of 2"):
        collate_pairs(*joined([[shifted]]), 2, 2, BYTES, start=START, pad=PAD)
    with pytest.raises(AssertionError):
        collate_pairs(*joined([[told]]), 9, 9, BYTES, start=START, pad=PAD)
    with pytest.raises(AssertionError, match="some of the examples have fed"):
        joined([[shifted, told]])


def test_a_row_may_be_empty() -> None:
    assert collate_stream(*joined([[]]), 3, BYTES, PAD).segment_ids.tolist() == [[-1, -1, -1]]
    assert collate_pairs(*joined([[]]), 2, 3, BYTES, start=START, pad=PAD).source_tokens.tolist() == [[PAD, PAD]]
