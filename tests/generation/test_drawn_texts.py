"""Texts that are drawn: by the seed, the row and what the model says, and by nothing else."""

import compilations
import jax
import numpy as np
import pytest
from random_models import DRAWN, GREEDY, VOCABULARY, only, random_ids, random_model, texts_of

from lmarch.generation.generator import Texts
from lmarch.generation.sampling import Sampling


def test_what_a_row_draws_depends_on_its_number_and_its_own_text_only() -> None:
    model, texts = random_model(), texts_of("causal_decoder", 5, 12, 3)
    together = model.tokens(texts, 20, DRAWN)
    alone = model.tokens(only(texts, 0), 20, DRAWN)
    assert np.array_equal(alone[0], together[0])
    others = Texts([texts.prompts[0], *random_ids(9, 12, seed=1)])
    found = model.tokens(others, 20, DRAWN)
    assert np.array_equal(found[0], together[0])
    assert not np.array_equal(found[1], together[1])
    same = model.tokens(Texts([texts.prompts[0]] * 3), 20, DRAWN)
    assert np.array_equal(same[0], together[0])
    assert len({tuple(row) for row in same.tolist()}) == 3


def test_the_seed_is_the_text() -> None:
    model, texts = random_model(), texts_of("causal_decoder", 5, 12, 3)
    first = model.tokens(texts, 20, DRAWN, seed=5)
    assert np.array_equal(model.tokens(texts, 20, DRAWN, seed=5), first)
    assert (model.tokens(texts, 20, DRAWN, seed=6) != first).any(1).all()
    assert np.array_equal(model.tokens(texts, 20, seed=5), model.tokens(texts, 20, seed=6))  # greedy draws nothing
    # A longer text goes on from the shorter one.
    assert np.array_equal(model.tokens(texts, 30, DRAWN, seed=5)[:, :20], first)


@pytest.mark.parametrize(
    "settings",
    [
        [Sampling(1.0), Sampling(0.5), Sampling(2.0)],
        [Sampling(1.0, top_k=40, top_p=0.9), Sampling(0.7, top_k=40, top_p=0.3), Sampling(0.7, top_k=40, top_p=0.6)],
    ],
    ids=["temperature", "top_p"],
)
def test_another_temperature_or_p_draws_otherwise_and_compiles_nothing(settings: list[Sampling]) -> None:
    model, texts = random_model(), texts_of("causal_decoder", 5, 12, 3)
    drawn = [model.tokens(texts, 8, settings[0])]
    with compilations.counted() as names:
        drawn += [model.tokens(texts, 8, other) for other in settings[1:]]
    assert names == []
    assert len({tokens.tobytes() for tokens in drawn}) == 3


def test_every_token_is_drawn_anew() -> None:
    """So hot that all are equally likely: with the same noise at every step it would be the same token for ever."""
    drawn = random_model().tokens(texts_of("causal_decoder", 5, 12, 3), 40, Sampling(temperature=1e6))
    assert min(len(set(row)) for row in drawn.tolist()) > 15
    assert (drawn[:, 1:] == drawn[:, :-1]).mean() < 0.1


@pytest.mark.slow
def test_drawn_tokens_come_as_often_as_the_full_pass_says() -> None:
    """The first tokens of many rows with the same prompt."""
    model, prompt = random_model(), random_ids(5)[0]
    drawn = model.tokens(Texts([prompt] * 2000), 1, DRAWN)[:, 0]
    p_V = np.asarray(jax.nn.softmax(model.read(Texts([prompt]), 0, prompt)[-1]), np.float64)
    counts = np.bincount(drawn, minlength=VOCABULARY)
    deviation = (counts - 2000 * p_V) / np.sqrt(2000 * p_V * (1 - p_V))
    assert np.abs(deviation[p_V > 0.005]).max() < 4
    assert (p_V > 0.005).sum() > 5


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, DRAWN, *(pytest.param(Sampling(2.0, *kept), marks=pytest.mark.slow) for kept in ((3, None), (None, 0.5)))],
)
def test_forbidden_ids_are_never_drawn(sampling: Sampling) -> None:
    model, texts = random_model(), texts_of("causal_decoder", 5, 12, 3)
    free = model.tokens(texts, 20, sampling)
    forbidden = np.unique(free)[::2].tolist()
    found = model.tokens(texts, 20, sampling, forbidden=forbidden)
    assert not np.isin(found, forbidden).any()
    all_but_two = [token for token in range(VOCABULARY) if token not in (3, 40)]
    assert set(model.tokens(texts, 20, sampling, forbidden=all_but_two).ravel().tolist()) <= {3, 40}
