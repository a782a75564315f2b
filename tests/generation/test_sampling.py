"""How a token is drawn: what may be drawn is what the definitions say, and how often is what the probabilities say."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmarch.errors import UserError
from lmarch.generation.sampling import Sampling, draw, may_be_drawn

DRAWS = 8000


def draws(sampling: Sampling, logits_V: np.ndarray, count: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Independent draws from the same logits, int [count]."""
    keys = jax.random.split(jax.random.key(seed), count)
    rows = jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32), (count, len(logits_V)))
    return np.asarray(sampling.draw(rows, keys))


def probabilities(logits_V: np.ndarray, temperature: float) -> np.ndarray:
    scaled = np.asarray(logits_V, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def kept_by_definition(logits_V: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> set[int]:
    """One token after the other, the most likely first and of equals the lowest id, until k or p is reached."""
    p_V = probabilities(logits_V, temperature)
    ranked = sorted(range(len(p_V)), key=lambda token: (-p_V[token], token))
    if top_k is not None:
        ranked = ranked[:top_k]
    if top_p is None:
        return set(ranked)
    total, kept, among = 0.0, set(), sum(p_V[token] for token in ranked)
    for token in ranked:
        kept.add(token)
        total += p_V[token] / among
        if total >= top_p:
            break
    return kept


def assert_drawn_as(tokens: np.ndarray, p_V: np.ndarray) -> None:
    """Pearson's chi-square: its mean is the number of free cells and its variance twice that."""
    counts, expected = np.bincount(tokens, minlength=len(p_V)), p_V * len(tokens)
    assert (counts[p_V == 0] == 0).all()
    cells = expected > 0
    assert expected[cells].min() > 5
    chi_square = ((counts[cells] - expected[cells]) ** 2 / expected[cells]).sum()
    free = cells.sum() - 1
    assert chi_square < free + 4 * math.sqrt(2 * max(free, 1))


def test_greedy_takes_the_most_likely_and_of_equals_the_lowest_id() -> None:
    logits = jnp.asarray([[0.0, 3.0, 1.0], [2.0, -1.0, 2.0], [-jnp.inf, -5.0, -6.0]])
    found = Sampling().draw(logits, jax.random.split(jax.random.key(0), 3))
    assert found.dtype == jnp.int32
    assert found.tolist() == [1, 0, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_as_often_as_their_probabilities_at_the_temperature_say(temperature: float) -> None:
    logits = temperature * np.random.default_rng(1).standard_normal(12)
    p = probabilities(logits, temperature)
    tokens = draws(Sampling(temperature), logits)
    assert_drawn_as(tokens, p)
    with pytest.raises(AssertionError):  # a temperature that is off by a quarter is noticed
        assert_drawn_as(tokens, probabilities(logits, 1.25 * temperature))


@pytest.mark.parametrize("temperature", [1e-3, 2e-38])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    rows = jnp.asarray(10 * np.random.default_rng(2).standard_normal((50, 20)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 50)
    for sampling in (Sampling(temperature), Sampling(temperature, top_k=3, top_p=0.9)):
        assert np.array_equal(sampling.draw(rows, keys), jnp.argmax(rows, -1))


@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [(1, None), (4, None), (100, None), (None, 0.3), (None, 0.9), (None, 1e-6), (5, 0.6), (2, 0.999), (3, 1.0)],
)
def test_what_may_be_drawn_is_what_the_definition_keeps(top_k: int | None, top_p: float | None) -> None:
    """All of it is drawn, nothing else is, and as often as what is left of the probabilities says."""
    rng, sampling = np.random.default_rng(3), Sampling(0.7, top_k, top_p)
    for seed in range(4):
        logits = rng.standard_normal(9)
        kept = kept_by_definition(logits, 0.7, top_k, top_p)
        p = np.where([token in kept for token in range(9)], probabilities(logits, 0.7), 0.0)
        tokens = draws(sampling, logits, seed=seed)
        assert set(tokens.tolist()) == kept
        assert_drawn_as(tokens, p / p.sum())


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (1, None, {0}),
        (3, None, {0, 1, 2}),
        (None, 0.25, {0}),
        (None, 0.2500001, {0, 1}),
        (None, 0.5, {0, 1}),
        (None, 0.75, {0, 1, 2}),
        (2, 0.5, {0}),
        (2, 0.500001, {0, 1}),
    ],
)
def test_of_equally_likely_tokens_the_lowest_ids_are_kept(top_k: int | None, top_p: float | None, kept: set) -> None:
    """Four tokens of exactly a quarter each: p=0.5 is reached by two of them; top-k makes two of them halves."""
    assert set(draws(Sampling(1.0, top_k, top_p), np.zeros(4), 500).tolist()) == kept


def test_ties_are_broken_by_id_wherever_they_stand() -> None:
    logits = np.log([0.1, 0.2, 0.1, 0.4, 0.2])  # ranked: 3, 1, 4, 0, 2
    for top_k, kept in ((2, {3, 1}), (3, {3, 1, 4}), (4, {3, 1, 4, 0})):
        assert set(draws(Sampling(1.0, top_k), logits, 2000).tolist()) == kept
    assert set(draws(Sampling(1.0, top_p=0.5), logits, 2000).tolist()) == {3, 1}
    assert set(draws(Sampling(1.0, top_p=0.85), logits, 2000).tolist()) == {3, 1, 4, 0}


def test_top_p_is_of_what_top_k_left() -> None:
    """p = 1/2, 1/4, 1/8, 1/8: of the first two a share of 0.6 is the first alone; of all four it is the first two."""
    logits = np.log([0.5, 0.25, 0.125, 0.125])
    assert set(draws(Sampling(1.0, top_p=0.6), logits, 500).tolist()) == {0, 1}
    assert set(draws(Sampling(1.0, top_k=2, top_p=0.6), logits, 500).tolist()) == {0}


def ranked_by_logit_and_id(logits_BV: np.ndarray, top_p: float | None, top_k: int | None) -> np.ndarray:
    """Return what may be drawn, bool [B, V]: every token has a rank, the most likely and of equals the lowest id first."""
    order_BV = np.argsort(-logits_BV, axis=-1, kind="stable")
    kept_BV = np.broadcast_to(np.arange(logits_BV.shape[-1]) < (top_k or logits_BV.shape[-1]), logits_BV.shape)
    if top_p is not None:
        ranked_BV = np.take_along_axis(logits_BV, order_BV, axis=-1).astype(np.float64)
        weights_BV = np.where(kept_BV, np.exp(ranked_BV - ranked_BV[:, :1]), 0.0)
        probabilities_BV = weights_BV / weights_BV.sum(axis=-1, keepdims=True)
        kept_BV = kept_BV & ((probabilities_BV.cumsum(axis=-1) - probabilities_BV < top_p) | (top_p == 1))
    return np.take_along_axis(kept_BV, np.argsort(order_BV, axis=-1), axis=-1)


@pytest.mark.parametrize("vocab_size", [1, 2, 13, 300])
@pytest.mark.parametrize("limit", [None, 1, "some", "more"])
def test_what_may_be_drawn_are_the_first_of_a_ranking_by_logit_and_id(vocab_size: int, limit: Any) -> None:
    """Logits of few values, of which many are equal, some are minus infinity and some minus zero, and of many values."""
    top_k = {"some": vocab_size // 3 + 1, "more": vocab_size + 5}.get(limit, limit)
    rng, rows = np.random.default_rng(vocab_size), 400
    few_BV = rng.choice(np.array([0.0, -0.0, -0.5, -1.0, -3.0, -np.inf], np.float32), (rows, vocab_size))
    few_BV[:, rng.integers(vocab_size)] = -0.5  # one at least can be drawn
    many_BV = rng.standard_normal((rows, vocab_size)).astype(np.float32)
    found = jax.jit(may_be_drawn, static_argnames="top_k")
    for logits_BV in (few_BV, many_BV):
        assert np.array_equal(found(logits_BV, None, top_k=top_k), ranked_by_logit_and_id(logits_BV, None, top_k))
        for top_p in (1.0, *rng.uniform(0, 1, 8).tolist()):
            expected = ranked_by_logit_and_id(logits_BV, top_p, top_k)
            assert np.array_equal(found(logits_BV, top_p, top_k=top_k), expected), top_p


def test_p_of_one_keeps_every_token_however_unlikely() -> None:
    """Sums of float32 reach 1 before the last tokens: here all but the first have 1e-9 each."""
    logits = np.array([0.0] + [-20.7] * 2000)
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (1, 2001))
    assert all(
        may_be_drawn(rows, sampling.top_p, sampling.top_k).all()
        for sampling in (Sampling(1.0, top_p=1.0), Sampling(1.0, 2001, 1.0))
    )
    same = np.random.default_rng(4).standard_normal(50)
    assert np.array_equal(draws(Sampling(1.0, top_p=1.0), same, 500), draws(Sampling(1.0), same, 500))


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.0, top_k=2), Sampling(1.0, top_k=3, top_p=0.9)])
def test_a_token_of_no_probability_is_never_drawn(sampling: Sampling) -> None:
    logits = np.array([-np.inf, 1.0, -np.inf, 0.5, -np.inf])
    assert set(draws(sampling, logits, 500).tolist()) == {1, 3}


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.8), Sampling(0.8, top_k=5), Sampling(0.8, top_p=0.7), Sampling(2.0, 9, 0.9)]
)
def test_a_row_draws_the_same_whatever_stands_beside_it(sampling: Sampling) -> None:
    rows = jnp.asarray(3 * np.random.default_rng(5).standard_normal((16, 30)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 16)
    together = sampling.draw(rows, keys)
    alone = [sampling.draw(rows[b : b + 1], keys[b : b + 1])[0] for b in range(16)]
    assert together.tolist() == [int(token) for token in alone]
    others = rows.at[::2].set(-rows[::2])
    assert sampling.draw(others, keys)[1::2].tolist() == together[1::2].tolist()
    order = np.random.default_rng(6).permutation(16)
    assert sampling.draw(rows[order], keys[order]).tolist() == together[order].tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(temperature=-1.0), "temperature=-1 must be 0 (greedy) or more, and finite"),
        (dict(temperature=math.inf), "temperature=inf must be 0"),
        (dict(temperature=math.nan), "temperature=nan must be 0"),
        (dict(temperature=1.0, top_k=0), "top_k=0 must be 1 or more"),
        (dict(temperature=1.0, top_k=-3), "top_k=-3 must be 1 or more"),
        (dict(temperature=1.0, top_p=0.0), "top_p=0 must be above 0 and at most 1"),
        (dict(temperature=1.0, top_p=1.5), "top_p=1.5 must be above 0 and at most 1"),
        (dict(temperature=1.0, top_p=math.nan), "top_p=nan must be above 0"),
        (dict(top_k=5), "need a temperature above 0"),
        (dict(top_p=0.5), "need a temperature above 0"),
    ],
)
def test_values_that_mean_nothing_are_refused_in_one_line(values: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        Sampling(**values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sampling", [Sampling(0.7), Sampling(1.3, top_p=0.9), Sampling(0.33, top_k=40, top_p=0.95)], ids=str
)
def test_a_temperature_that_is_an_argument_draws_what_a_constant_draws(sampling: Sampling) -> None:
    """So that texts of a seed stayed what they were."""
    logits = jnp.asarray(3 * np.random.default_rng(5).standard_normal((500, 264)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 500)
    constant = jax.jit(sampling.draw)(logits, keys)
    argument = jax.jit(draw, static_argnames="top_k")(logits, keys, *sampling.traced, top_k=sampling.top_k)
    np.testing.assert_array_equal(constant, argument)
