"""`lmarch.load(...).generate(...)`: what a user asks for, gets, and is refused."""

import dataclasses
import functools
from typing import Any

import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from spelling import BYTES, PROMPTS

from lmarch.errors import UserError
from lmarch.loading import Model
from lmarch.models.text import Text


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Any:
    """Return what makes random models of any config: untied, or they repeat their last token for ever."""
    folder = tmp_path_factory.mktemp("untrained")

    @functools.cache
    def make(architecture: str, sampler: str | None = None) -> Model:
        changes = {"data__position_sampler": {"name": sampler, "maximum": 90}} if sampler else {}
        config = tiny.config(folder, model__architecture=architecture, model__tied_embeddings=False, **changes)
        return initialised.model(config, folder)

    return make


def by_full_passes(model: Model, prompt: str, count: int, prefix_length: int | None = None) -> str:
    """Return one token after the other, each the argmax of `Model.logits` over all that is there, padded to one shape."""
    read = BYTES.encode(prompt)
    of_both = model.definition.is_encoder_decoder
    ids = [] if of_both else read.tolist()
    for _ in range(count):
        padded = np.array([ids + [0] * (64 - len(ids))])
        if of_both:
            last = model.logits(read[None], padded)[0, len(ids)]  # position t predicts target t
        else:
            last = model.logits(padded, prefix_length=prefix_length)[0, len(ids) - 1]
        last = last.at[jnp.array([BYTES.bos, BYTES.pad])].set(-jnp.inf)
        ids.append(int(last.argmax()))
        if ids[-1] == BYTES.eos:
            break
    return BYTES.decode(ids if of_both else ids[len(read) :])


def test_a_greedy_text_is_what_full_passes_write(model) -> None:
    text = model.generate(PROMPTS[0], 30)
    assert text == by_full_passes(model, PROMPTS[0], 30)
    assert len(set(text)) > 3  # words
    assert model.generate(PROMPTS[0], 12) == text[:12]


def test_several_prompts_give_a_list_of_what_each_gives_alone(model) -> None:
    texts = model.generate(PROMPTS, 20)
    assert texts == [model.generate(prompt, 20) for prompt in PROMPTS]
    assert model.generate(PROMPTS[:1], 20) == texts[:1]
    assert model.generate(tuple(PROMPTS), 20) == texts


def test_a_drawn_text_depends_on_the_seed_and_its_row(model) -> None:
    drawn = model.generate([PROMPTS[0]] * 3, 20, temperature=1.0, seed=4)
    assert drawn == model.generate([PROMPTS[0]] * 3, 20, temperature=1.0, seed=4)
    assert len(set(drawn)) == 3
    assert model.generate(PROMPTS[0], 20, temperature=1.0, seed=4) == drawn[0]
    assert model.generate(PROMPTS[0], 20, temperature=1.0, seed=5) != drawn[0]


@pytest.mark.slow
def test_settings_that_leave_one_token_are_greedy(model) -> None:
    assert model.generate(PROMPTS[0], 20, temperature=1.0, top_k=1) == model.generate(PROMPTS[0], 20)
    assert model.generate(PROMPTS[0], 20, temperature=5.0, top_p=0.01) == model.generate(PROMPTS[0], 20)


def test_what_is_told_while_it_comes_is_the_text(model) -> None:
    told: list[tuple[int, str]] = []
    settings = dict(temperature=1.0, stop=["e", "th"])
    texts = model.generate(PROMPTS, 20, on_text=lambda *piece: told.append(piece), **settings)
    assert texts == ["".join(text for row, text in told if row == number) for number in range(3)]
    assert all(text for _, text in told)
    assert texts == model.generate(PROMPTS, 20, **settings)


def test_a_text_ends_before_what_it_is_to_stop_at(model) -> None:
    whole = model.generate(PROMPTS, 30)
    assert model.generate(PROMPTS, 30, stop=" ") == [text.split(" ")[0] for text in whole]
    assert model.generate(PROMPTS[0], 30, stop=[whole[0][9:13], "never"]) == whole[0][: whole[0].find(whole[0][9:13])]
    assert model.generate(PROMPTS[0], 30, stop="never") == whole[0]


def test_a_text_ends_at_the_end_of_text_id(model) -> None:
    """Here a space is that id."""
    ending = dataclasses.replace(model, tokenizer=dataclasses.replace(BYTES, eos=ord(" ")))
    whole = model.generate(PROMPTS, 30)
    assert ending.generate(PROMPTS, 30) == [text.split(" ")[0] for text in whole]


def test_ids_that_begin_or_pad_a_text_are_not_drawn(model) -> None:
    """Here letters are those ids, and the model would write them."""
    t, space = ord("t"), ord(" ")
    assert {"t", " "} <= set(model.generate(PROMPTS[0], 30))
    without = dataclasses.replace(model, tokenizer=dataclasses.replace(BYTES, bos=t, pad=space))
    assert not {"t", " "} & set(without.generate(PROMPTS[0], 30))


@pytest.mark.slow
def test_another_position_and_another_window_write_what_their_own_full_passes_do(model) -> None:
    prompt = " ".join(PROMPTS)[:40]
    for other in (model.with_position("rerope", window=8), model.with_window("streaming:sinks=2,size=9")):
        text = other.generate(prompt, 24)
        assert text == by_full_passes(other, prompt, 24)
        assert text != model.generate(prompt, 24)


@pytest.mark.slow
def test_a_prefix_decoder_sees_all_of_a_prompt_both_ways_unless_told_less(untrained) -> None:
    model, (prompt, shorter) = untrained("prefix_decoder"), PROMPTS[:2]
    whole, part = model.generate(prompt, 20), model.generate(prompt, 20, prefix_length=4)
    assert whole == by_full_passes(model, prompt, 20, prefix_length=len(prompt))
    assert part == by_full_passes(model, prompt, 20, prefix_length=4)
    assert whole != part
    assert model.generate([prompt, shorter], 20) == [whole, model.generate(shorter, 20)]
    assert model.generate(prompt, 20, prefix_length=0) == model.generate(prompt, 20, prefix_length=1)
    with pytest.raises(UserError, match=r"prefix_length=11 must be in \[0, 10\], the shortest prompt"):
        model.generate([prompt, shorter], 20, prefix_length=11)


@pytest.mark.slow
def test_an_encoder_reads_the_prompt(untrained) -> None:
    model = untrained("encoder_decoder")
    texts = model.generate(PROMPTS, 20)
    assert texts == [by_full_passes(model, prompt, 20) for prompt in PROMPTS]
    assert len(set(texts)) == 3
    with pytest.raises(UserError, match="every source needs at least one token"):
        model.generate(["a", ""], 20)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["causal_decoder", "encoder_decoder"])
def test_a_model_of_sampled_positions_writes_at_such(architecture: str, untrained) -> None:
    """Drawn from the seed like everything else; the encoder has its own."""
    model = untrained(architecture, "randomized")
    texts = model.generate(PROMPTS[0], 20, seed=1), model.generate(PROMPTS[0], 20, seed=2)
    assert model.generate(PROMPTS[0], 20, seed=1) == texts[0] != texts[1]
    prompt = BYTES.encode(PROMPTS[0])
    if model.definition.is_encoder_decoder:
        start, options = [BYTES.bos], {"source": Text(prompt[None], model.sampled_positions([15], 1))}
        positions = model.sampled_positions([21], 2)
    else:
        start, options = prompt.tolist(), {}
        positions = model.sampled_positions([35], 1)
    ids, apply = list(start), jax.jit(model.definition.apply)
    while len(ids) < positions.size:
        padded = jnp.asarray([ids + [0] * (positions.size - len(ids))])
        last = apply(model.params, padded, positions, **options)[0, len(ids) - 1]
        ids.append(int(last.at[jnp.array([BYTES.bos, BYTES.pad])].set(-jnp.inf).argmax()))
    assert texts[0] == BYTES.decode(ids[len(start) :])
    with pytest.raises(UserError, match="randomized draws from 90 positions: too few"):
        model.generate(PROMPTS[0], 100)


@pytest.mark.slow
def test_a_row_of_sampled_positions_does_not_depend_on_its_neighbours(untrained) -> None:
    model = untrained("causal_decoder", "randomized")
    assert model.generate([PROMPTS[0], PROMPTS[0] * 2], 20)[0] == model.generate(PROMPTS[0], 20)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("", {}, "every prompt needs at least one token"),
        (["a", ""], {}, "every prompt needs at least one token"),
        ([], {}, "prompt=[]: every prompt needs at least one token"),
        ("a", dict(max_new_tokens=0), "max_new_tokens=0: there must be something to write"),
        ("a", dict(max_new_tokens=-2), "max_new_tokens=-2"),
        ("a", dict(stop=""), "stop has an empty text"),
        ("a", dict(stop=["b", ""]), "stop has an empty text"),
        ("caf\udce9", {}, "'caf\\udce9' is no Unicode text"),
        ("a", dict(stop="caf\udce9"), "'caf\\udce9' is no Unicode text"),
        ("a", dict(temperature=-1), "temperature=-1 must be 0"),
        ("a", dict(top_k=3), "need a temperature above 0"),
        ("a", dict(prefix_length=1), "causal_decoder has no prefix"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(prompt: Any, settings: dict, message: str, model) -> None:
    with pytest.raises(UserError) as error:
        model.generate(prompt, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", [2**32, 2**64, -1])
def test_a_seed_that_is_none_is_refused(seed: int, model) -> None:
    with pytest.raises(UserError, match=f"seed={seed}"):
        model.generate(PROMPTS[0], 4, temperature=1.0, seed=seed)
