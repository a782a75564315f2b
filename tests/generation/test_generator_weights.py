"""A generator holds the weights once, as its steps compute with them, and sends nothing between two tokens."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import BASE, CAUSAL_OR_SLOW, DRAWN, GREEDY, VOCABULARY, random_ids, random_model, texts_of

from lmarch.generation.generator import Generator, Texts
from lmarch.models.definition import ModelDefinition, Parameters
from lmarch.models.text import Text

HALF = {"compute_dtype": "bfloat16"}
# Between them, every kind of parameter: biases of all products, norms of both kinds, what positions learn, tied embeddings.
KINDS = (
    {"attention_bias": "all", "ffn_bias": True, "norm": "layer", "qk_norm": True, "position": {"name": "fire"}},
    {"tied_embeddings": True, "position": {"name": "learned", "size": 128}, "sink": True},
    {"position": {"name": "fox"}},
    {"ffn": "gelu", "position": {"name": "t5_bias"}, "layers": ({}, {"window": {"name": "sliding", "size": 3}})},
)
DTYPES = (HALF, {}, {"param_dtype": "bfloat16"}, {**HALF, "param_dtype": "bfloat16"})
FIRST, *OTHERS = ({**kind, **dtypes} for kind in KINDS for dtypes in DTYPES)


def noisy(definition: ModelDefinition) -> Parameters:
    """Return parameters none of which is 0 or 1, as biases and norms are initialised."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32),
        definition.init(jax.random.key(0)),
    )


def of_steps(definition: ModelDefinition, params: Parameters, texts: Texts) -> np.ndarray:
    """Return logits [B, V] after prompts of one length, by the definition's own steps."""

    def read(params: Parameters, source: Text | None) -> jax.Array:
        tokens_BT = jnp.asarray(np.stack(texts.prompts))
        rows, length = tokens_BT.shape
        lengths_B = jnp.full(rows, length)
        cache = definition.start(params, rows, longest=128, chunk=length, lengths_B=lengths_B, source=source)
        return definition.step(params, cache, tokens_BT)[0]

    source = None if texts.sources is None else Text(jnp.asarray(np.stack(texts.sources)))
    return np.asarray(jax.jit(read)(definition.unstacked(params), source))


@pytest.mark.parametrize("changes", [FIRST, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)], ids=str)
def test_weights_that_are_rounded_once_give_the_logits_of_those_rounded_at_every_use(changes: dict[str, Any]) -> None:
    definition = ModelDefinition(replace(BASE, **changes), VOCABULARY)
    params, texts = noisy(definition), Texts(random_ids(8, 8, 8))
    found = Generator(definition, params).read(texts)[0]
    np.testing.assert_array_equal(found, of_steps(definition, params, texts))


@pytest.mark.slow
def test_an_encoder_reads_weights_that_are_rounded_once() -> None:
    definition = ModelDefinition(replace(BASE, architecture="encoder_decoder", **HALF), VOCABULARY)
    params, texts = noisy(definition), texts_of("encoder_decoder", 128, 128)
    found = Generator(definition, params).read(texts)[0]
    np.testing.assert_array_equal(found, of_steps(definition, params, texts))


def held_by(make: Callable[[], Generator]) -> tuple[Generator, int]:
    """Return what `make` makes, and the bytes of all arrays on the device that are there for it."""
    before = {id(array) for array in jax.live_arrays()}
    generator = make()
    gc.collect()
    return generator, sum(array.nbytes for array in jax.live_arrays() if id(array) not in before)


@pytest.mark.parametrize(("dtypes", "share"), [({}, 1.0), (HALF, 0.5)], ids=str)
@pytest.mark.parametrize("architecture", CAUSAL_OR_SLOW)
def test_a_generator_holds_the_weights_once(architecture: str, dtypes: dict[str, str], share: float) -> None:
    """In half precision half of them; nothing is left of what it was made from, nor of texts that it has written."""
    definition = ModelDefinition(replace(BASE, architecture=architecture, dim=64, ffn_dim=128, **dtypes), VOCABULARY)
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(definition.shapes))

    def used() -> Generator:
        generator = Generator(definition, definition.init(jax.random.key(0)))
        assert len([*generator.tokens(texts_of(architecture, 5, 12, 3), 4, DRAWN)]) == 4
        return generator

    generator, held = held_by(used)
    assert held == pytest.approx(share * weights, rel=0.05)
    assert generator.definition is definition


def test_nothing_is_sent_to_the_device_between_two_tokens() -> None:
    model, texts = random_model(), texts_of("causal_decoder", 5, 12, 3)
    drawn = model.generator.tokens(texts, 6, DRAWN, forbidden=[3])
    first = [next(drawn) for _ in range(2)]
    with jax.transfer_guard_host_to_device("disallow"):
        rest = [*drawn]
    assert np.array_equal(np.stack(first + rest, axis=1), model.tokens(texts, 6, DRAWN, forbidden=[3]))


def test_the_last_token_is_not_run_through_the_model(monkeypatch) -> None:
    """Of one new token, the model reads the prompt only."""
    lengths, step = [], ModelDefinition.step

    def watched(self: ModelDefinition, params: Any, cache: Any, tokens_BT: jax.Array, *rest: Any) -> Any:
        lengths.append(tokens_BT.shape[1])
        return step(self, params, cache, tokens_BT, *rest)

    monkeypatch.setattr(ModelDefinition, "step", watched)
    model = random_model()
    for count, read in ((1, [8]), (2, [8, 1])):
        lengths.clear()
        drawn = Generator(model.definition, model.params).tokens(Texts(random_ids(5)), count, GREEDY)
        assert len([*drawn]) == count
        assert lengths == read
