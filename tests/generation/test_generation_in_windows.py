"""Generation in windows: caches that forget what no token will see again, and prompts that are cut into parallel windows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import (
    ARCHITECTURES,
    BASE,
    RandomModel,
    assert_each_is_the_most_likely_after_all_before_it,
    random_ids,
    random_model,
    texts_of,
)

from lmarch.generation import generator as loop
from lmarch.generation.generator import Texts
from lmarch.visibility import Layout

RINGS = (
    "streaming:sinks=3,size=6",
    "sliding:size=6",
    "lm_infinite:sinks=2,size=6",
    "lm_infinite:sinks=2,size=6,ceiling=4",
    "lm_infinite:sinks=2,size=6,capped=False",
)


@pytest.mark.parametrize("window", [RINGS[0], *(pytest.param(window, marks=pytest.mark.slow) for window in RINGS[1:])])
def test_a_cache_that_forgets_writes_what_a_full_pass_in_the_same_window_does(window: str, monkeypatch) -> None:
    """Prompts and texts go many times around rings of slots.

    Two prompts fill their last chunk, whose first token then is in reach of its last: what the one sees matters.
    """
    monkeypatch.setattr(loop, "CHUNK", 4)
    model, texts = random_model(window=window), texts_of("causal_decoder", 72, 5, 36)
    logits, cache = model.generator.read(texts, 100)
    assert all(state.slots.capacity <= 3 + 6 + 4 for state in cache.states)
    for row, prompt in enumerate(texts.prompts):
        np.testing.assert_allclose(logits[row], model.read(texts, row, prompt, 172)[-1], atol=1e-5)
    drawn = model.tokens(texts, 100)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, drawn)
    assert not np.array_equal(drawn, random_model().tokens(texts, 100))  # without a window it is another text


@pytest.mark.slow
@pytest.mark.parametrize("window", RINGS[:3])
@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_windows_of_other_architectures_forget_too(architecture: str, window: str, monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 8)
    model, texts = random_model(architecture, window=window), texts_of(architecture, 30, 5, 21)
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 100))


@pytest.mark.slow
def test_layers_that_forget_beside_layers_that_do_not(monkeypatch) -> None:
    monkeypatch.setattr(loop, "CHUNK", 8)
    layers = ({"window": {"name": "sliding", "size": 6}}, {"position": {"name": "nope"}})
    model, texts = RandomModel(dataclasses.replace(BASE, layers=layers)), texts_of("causal_decoder", 70, 5, 33)
    assert len({state.slots for state in model.generator.read(texts, 50)[1].states}) == 2
    assert_each_is_the_most_likely_after_all_before_it(model, texts, model.tokens(texts, 50))


# Prompts of two windows of 9, and of one of 9 and one of 3, each with a task of 5.
SIZE, TASK, NEW = 9, 5, 12
CUT = texts_of("causal_decoder", 23, 17)


def in_parallel(task_length: int = TASK) -> RandomModel:
    return random_model(window=f"parallel:size={SIZE},task_length={task_length}")


def test_new_tokens_are_task_of_the_parallel_windows_that_the_prompt_is_cut_into() -> None:
    """Those of a full pass whose task is longer by what was written: its windows are the same."""
    drawn, longer = in_parallel().tokens(CUT, NEW), in_parallel(TASK + NEW)
    for row, prompt in enumerate(CUT.prompts):
        logits = longer.read(CUT, row, np.concatenate([prompt, drawn[row]]))
        assert np.array_equal(logits[len(prompt) - 1 : -1].argmax(-1), drawn[row])
    assert not np.array_equal(drawn, random_model().tokens(CUT, NEW))


def test_they_are_where_the_layout_of_the_prompt_puts_them() -> None:
    """And the logits are those of the text added in one piece."""
    model, drawn = in_parallel(), in_parallel().tokens(CUT, NEW)
    cuts = np.array([len(prompt) for prompt in CUT.prompts], np.int32)
    width = int(cuts.max()) + NEW
    rows = [np.concatenate([prompt, new]) for prompt, new in zip(CUT.prompts, drawn, strict=True)]
    padded = jnp.asarray(np.stack([np.pad(row, (0, width - len(row))) for row in rows]))
    cache = model.definition.start(model.params, 2, longest=width, chunk=width, cut_B=jnp.asarray(cuts))
    step = jax.jit(functools.partial(model.definition.step, every=True))
    logits_BTV, cache = step(model.params, cache, padded, jnp.asarray(cuts + NEW))
    nothing_more = cache.context(1, jnp.zeros(2, jnp.int32), None, Layout(SIZE, TASK))
    at = cache.states[0].coordinates(nothing_more.reading, nothing_more.at)
    for row, cut in enumerate(cuts.tolist()):
        length = cut + NEW
        assert np.array_equal(logits_BTV[row, cut - 1 : length - 1].argmax(-1), drawn[row])
        windows, positions = Layout(SIZE, TASK).arrange(np.arange(length), cut)
        assert np.array_equal(at.windows[row, :length], windows)
        assert np.array_equal(at.positions[row, :length], positions)
        assert (windows[cut - TASK :] == 0).all()
        assert positions[cut - TASK :].tolist() == [*range(SIZE, SIZE + TASK + NEW)]


def test_the_order_of_equal_parallel_windows_changes_nothing() -> None:
    one, two, task = np.split(CUT.prompts[0], (SIZE, 2 * SIZE))
    swapped = Texts([np.concatenate([one, two, task]), np.concatenate([two, one, task])])
    assert np.array_equal(*in_parallel().tokens(swapped, NEW))
    assert not np.array_equal(*random_model().tokens(swapped, NEW))


def test_a_prompt_of_one_parallel_window_is_read_as_it_is() -> None:
    short = Texts(random_ids(SIZE + TASK, 6))
    assert np.array_equal(in_parallel().tokens(short, NEW), random_model().tokens(short, NEW))
