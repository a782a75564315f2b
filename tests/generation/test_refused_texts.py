"""Texts that cannot be written are refused before anything is computed."""

import dataclasses

import numpy as np
import pytest
from random_models import GREEDY, RandomModel, random_ids, random_model, texts_of

from lmarch.errors import UserError
from lmarch.generation.generator import Generator, Texts
from lmarch.models.definition import ModelDefinition

NOTHING = np.zeros(0, np.int32)


def without_computing(model: RandomModel, monkeypatch) -> Generator:
    """A generator of the same model that fails as soon as it computes anything."""

    def computed(*args, **kwargs):
        raise AssertionError("something was computed")

    monkeypatch.setattr(ModelDefinition, "start", computed)
    monkeypatch.setattr(ModelDefinition, "step", computed)
    return Generator(model.definition, model.params)


def test_a_text_longer_than_a_table_is_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(random_model(position="learned:size=48"), monkeypatch)
    with pytest.raises(UserError, match=r"learned:size=48 cannot go beyond 48 tokens, and the text has 49"):
        next(generator.tokens(texts_of("causal_decoder", 5, 12), 37, GREEDY))
    with pytest.raises(AssertionError, match="something was computed"):
        next(generator.tokens(texts_of("causal_decoder", 5, 12), 36, GREEDY))


@pytest.mark.slow
def test_a_source_longer_than_a_table_is_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(random_model("encoder_decoder", encoder_position="learned:size=16"), monkeypatch)
    with pytest.raises(UserError, match=r"learned:size=16 cannot go beyond 16 tokens, and the text has 17"):
        next(generator.tokens(texts_of("encoder_decoder", 5, 17), 4, GREEDY))


def test_empty_prompts_are_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(random_model(), monkeypatch)
    for prompts in ([], [NOTHING], [*random_ids(5), NOTHING]):
        with pytest.raises(UserError, match="every prompt needs at least one token"):
            next(generator.tokens(Texts(prompts), 4, GREEDY))


@pytest.mark.slow
def test_empty_sources_are_refused_before_anything_is_computed(monkeypatch) -> None:
    generator = without_computing(random_model("encoder_decoder", encoder_position="learned:size=16"), monkeypatch)
    texts = dataclasses.replace(texts_of("encoder_decoder", 5, 5), sources=[*random_ids(5), NOTHING])
    with pytest.raises(UserError, match="every source needs at least one token"):
        next(generator.tokens(texts, 4, GREEDY))
