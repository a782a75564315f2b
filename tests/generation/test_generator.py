"""Generation is the model: every new token is drawn from the logits of a full forward pass over all that stands before it."""

import dataclasses

import numpy as np
import pytest
from random_models import (
    CAUSAL_OR_SLOW,
    assert_each_is_the_most_likely_after_all_before_it,
    only,
    random_ids,
    random_model,
    texts_of,
)

from lmarch.generation import generator as loop
from lmarch.generation.generator import Texts


@pytest.mark.parametrize("architecture", CAUSAL_OR_SLOW)
def test_greedy_text_is_the_argmax_of_full_forward_passes(architecture: str) -> None:
    model, texts = random_model(architecture), texts_of(architecture, 5, 12, 3)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 20))


@pytest.mark.parametrize("architecture", CAUSAL_OR_SLOW)
def test_a_row_of_a_ragged_batch_gets_what_it_gets_alone(architecture: str) -> None:
    model, texts = random_model(architecture), texts_of(architecture, 5, 12, 3)
    together = model.tokens(texts, 20)
    for row in range(3):
        assert np.array_equal(model.tokens(only(texts, row), 20)[0], together[row])
    order = (2, 0, 1)
    assert np.array_equal(model.tokens(only(texts, *order), 20), together[[*order]])


@pytest.mark.parametrize("architecture", CAUSAL_OR_SLOW)
def test_a_prompt_read_in_chunks_is_the_same_prompt(architecture: str, monkeypatch) -> None:
    """Lengths around the ends of chunks; a prefix decoder's first chunk holds all of the longest prefix."""
    model, texts = random_model(architecture), texts_of(architecture, 17, 4, 8, 13)
    drawn, (logits, _) = model.tokens(texts, 12), model.generator.read(texts)
    monkeypatch.setattr(loop, "CHUNK", 4)
    assert np.array_equal(model.tokens(texts, 12), drawn)
    np.testing.assert_allclose(model.generator.read(texts)[0], logits, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "position",
    ["learned:size=48", "rerope:window=5", "self_extend:group=2,window=4", "xpos:scale_base=32", "alibi", "nope"],
)
def test_position_methods_write_what_their_full_passes_do(position: str) -> None:
    model, texts = random_model(position=position), texts_of("causal_decoder", 5, 12, 3)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 36))


@pytest.mark.slow
@pytest.mark.parametrize(
    "position", ["dynamic_ntk", "rerope:window=5,frequencies=dynamic_ntk", "rope:temperature=log_n"]
)
def test_methods_by_the_length_of_a_text_take_each_row_for_as_long_as_it_will_be(position: str, monkeypatch) -> None:
    """Prompt and what is written: the full pass is that over a row's whole text, without anything after it."""
    monkeypatch.setattr(loop, "CHUNK", 8)
    model, texts = random_model(position=position), texts_of("causal_decoder", 5, 12, 3)
    drawn, (logits, _) = model.tokens(texts, 36), model.generator.read(texts, 36)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, drawn, padded=False)
    for row, prompt in enumerate(texts.prompts):
        text = np.concatenate([prompt, drawn[row]])
        np.testing.assert_allclose(logits[row], model.read(texts, row, text)[len(prompt) - 1], atol=1e-5)


@pytest.mark.slow
def test_a_prefix_may_be_nothing_a_part_or_all_of_a_prompt() -> None:
    model, prompts = random_model("prefix_decoder"), random_ids(9, 9, 9)
    same = Texts([prompts[0]] * 4, prefix_lengths=[0, 1, 5, 9])
    drawn = model.tokens(same, 20)
    assert_each_is_the_most_likely_after_all_before_it(model, same, drawn)
    assert np.array_equal(drawn[0], drawn[1])  # one token sees itself in any case
    assert len({tuple(row) for row in drawn.tolist()}) == 3


OF_AN_ENCODER = (
    {"encoder_window": "parallel:size=5"},
    {"encoder_window": "sliding:size=4"},
    {"encoder_window": "streaming:sinks=2,size=4"},
    {"encoder_position": "dynamic_ntk"},
    {"encoder_position": "rerope:window=5"},
    {"cross_positions": "continuous"},
    {"cross_temperature": "log_n"},
)


@pytest.mark.slow
@pytest.mark.parametrize("variants", OF_AN_ENCODER, ids=lambda variants: "-".join(*variants.items()))
def test_sources_of_a_batch_are_read_as_if_each_were_alone(variants: dict[str, str]) -> None:
    """Of different lengths, padded: the padding is no part of what encoder and cross-attention count, cut or see."""
    model, texts = random_model("encoder_decoder", **variants), texts_of("encoder_decoder", 5, 23, 18)
    logits = model.generator.read(texts)[0]
    for row, prompt in enumerate(texts.prompts):
        np.testing.assert_allclose(logits[row], model.read(texts, row, prompt)[-1], atol=1e-5)
    assert not np.allclose(logits, random_model("encoder_decoder").generator.read(texts)[0], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["rope", "dynamic_ntk"])
def test_given_positions_are_those_of_each_row_and_token(position: str) -> None:
    """Ascending, with gaps, other ones in every row; a row's next token is at its own next position.

    The length of a text is then what its positions span.
    """
    model, texts = random_model(position=position), texts_of("causal_decoder", 5, 12, 3)
    rng = np.random.default_rng(0)
    positions = np.sort(np.stack([rng.choice(60, 32, replace=False) for _ in range(3)]), axis=1).astype(np.int32)
    placed = dataclasses.replace(texts, positions=positions)
    drawn, (logits, _) = model.tokens(placed, 20), model.generator.read(placed, 20)
    assert_each_is_the_most_likely_after_all_before_it(model, placed, drawn, padded=False)
    for row, prompt in enumerate(placed.prompts):
        text = np.concatenate([prompt, drawn[row]])
        np.testing.assert_allclose(logits[row], model.read(placed, row, text)[len(prompt) - 1], atol=1e-5)
    assert not np.array_equal(drawn, model.tokens(texts, 20))


@pytest.mark.slow
def test_a_table_is_used_to_its_end() -> None:
    """The whole text, prompt and what is written, may be as long as the table; the prompt's last chunk is longer."""
    model, texts = random_model(position="learned:size=48"), texts_of("causal_decoder", 40, 12, 35)
    drawn = model.tokens(texts, 8)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, drawn)


@pytest.mark.slow
@pytest.mark.parametrize(("position", "encoder_position"), [("rope", "learned:size=16"), ("learned:size=24", "rope")])
def test_a_table_of_one_side_is_no_limit_of_the_other(position: str, encoder_position: str) -> None:
    """The encoder's table has 16 entries and 60 tokens are written, or the decoder's 24 and 30 are read."""
    model = random_model("encoder_decoder", position=position, encoder_position=encoder_position)
    texts = texts_of("encoder_decoder", *((16, 5) if position == "rope" else (30, 9, 17)))
    assert_each_is_the_most_likely_after_all_before_it(
        model, texts, model.tokens(texts, 20 if position != "rope" else 60)
    )
