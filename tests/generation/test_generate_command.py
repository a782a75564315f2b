"""`lmarch.load(...).generate(...)` and `generate.py`: what a user asks for, sees, and is refused."""

import dataclasses
import functools
import io
import signal
import sys
from pathlib import Path
from typing import Any

import initialised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from commands import call, finish, start

import lmarch
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.loading import Model
from lmarch.models.text import Text
from lmarch.training.loop import train

BYTES = load_tokenizer("bytes")
PROMPTS = ["the fellow citi", "a lasting ", "of this union the peace"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    """Trained until it spells."""
    folder = tmp_path_factory.mktemp("generating")
    assert train(tiny.config(folder, train__steps=60), folder / "run").exit_status == 0
    return lmarch.load(folder / "run")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Any:
    """Makes random models of any config: untied, or they repeat their last token for ever."""
    folder = tmp_path_factory.mktemp("untrained")

    @functools.cache
    def make(architecture: str, sampler: str | None = None) -> Model:
        changes = {"data__position_sampler": {"name": sampler, "maximum": 90}} if sampler else {}
        config = tiny.config(folder, model__architecture=architecture, model__tied_embeddings=False, **changes)
        return initialised.model(config, folder)

    return make


def by_full_passes(model: Model, prompt: str, count: int, prefix_length: int | None = None) -> str:
    """One token after the other, each the argmax of `Model.logits` over all that is there, padded to one shape."""
    given = BYTES.encode(prompt)
    of_both = model.definition.is_encoder_decoder
    ids = [] if of_both else given.tolist()
    for _ in range(count):
        padded = np.array([ids + [0] * (64 - len(ids))])
        if of_both:
            last = model.logits(given[None], padded)[0, len(ids)]  # position t predicts target t
        else:
            last = model.logits(padded, prefix_length=prefix_length)[0, len(ids) - 1]
        last = last.at[jnp.array([BYTES.bos, BYTES.pad])].set(-jnp.inf)
        ids.append(int(last.argmax()))
        if ids[-1] == BYTES.eos:
            break
    return BYTES.decode(ids if of_both else ids[len(given) :])


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
    given = BYTES.encode(PROMPTS[0])
    if model.definition.is_encoder_decoder:
        start, options = [BYTES.bos], {"source": Text(given[None], model.sampled_positions([15], 1))}
        positions = model.sampled_positions([21], 2)
    else:
        start, options = given.tolist(), {}
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


# Of the command.


def printed(capsys, model: Model, *flags: str) -> str:
    assert call("generate", f"--workdir={model.workdir}", "--max_new_tokens=16", *flags) == 0
    return capsys.readouterr().out


@pytest.fixture
def in_memory(model, monkeypatch) -> None:
    """The command gets the model that the tests have: nothing is compiled again."""
    monkeypatch.setattr("lmarch.loading.load", lambda workdir, step: model)


def test_the_command_prints_the_prompt_and_what_follows_it(model, capsys) -> None:
    expected = model.generate(PROMPTS[0], 16, temperature=0.8, seed=0)
    assert printed(capsys, model, f"--prompt={PROMPTS[0]}") == f"{PROMPTS[0]}{expected}\n"


@pytest.mark.slow
def test_every_setting_of_the_command_is_one_of_generate(model, capsys, in_memory) -> None:
    settings = ("--temperature=1.5", "--top_k=9", "--top_p=0.9", "--seed=3", "--stop=e", "--stop=zz")
    expected = model.generate(PROMPTS[0], 16, temperature=1.5, top_k=9, top_p=0.9, seed=3, stop=("e", "zz"))
    assert printed(capsys, model, f"--prompt={PROMPTS[0]}", *settings) == f"{PROMPTS[0]}{expected}\n"


def test_text_appears_as_it_is_written(model, monkeypatch, in_memory) -> None:
    shown: list[str] = []

    class Screen(io.StringIO):
        def flush(self) -> None:
            shown.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Screen())
    call("generate", f"--workdir={model.workdir}", f"--prompt={PROMPTS[0]}", "--temperature=0", "--max_new_tokens=16")
    text = model.generate(PROMPTS[0], 16)
    assert shown[:16] == [PROMPTS[0] + text[:length] for length in range(1, 17)]


def test_a_prompt_that_nothing_follows_is_printed_alone(model, capsys, in_memory) -> None:
    stop = model.generate(PROMPTS[0], 1)
    assert printed(capsys, model, f"--prompt={PROMPTS[0]}", "--temperature=0", f"--stop={stop}") == f"{PROMPTS[0]}\n"


def test_several_prompts_are_written_out_one_after_the_other(model, capsys, in_memory) -> None:
    texts = model.generate(PROMPTS, 16)
    out = printed(capsys, model, *(f"--prompt={prompt}" for prompt in PROMPTS), "--temperature=0")
    assert out == "\n---\n".join(prompt + text for prompt, text in zip(PROMPTS, texts, strict=True)) + "\n"


def standard_input(content: bytes, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding)


def test_a_dash_reads_standard_input(model, capsys, monkeypatch, in_memory) -> None:
    expected = printed(capsys, model, f"--prompt={PROMPTS[0]}", "--temperature=0")
    for dash in (["--prompt=-"], ["--prompt", "-"]):
        monkeypatch.setattr(sys, "stdin", standard_input(PROMPTS[0].encode()))
        assert printed(capsys, model, *dash, "--temperature=0") == expected


def test_standard_input_is_read_as_it_is_whatever_the_system_takes_it_for(model, monkeypatch, in_memory) -> None:
    read: list[str] = []
    monkeypatch.setattr(Model, "generate", lambda self, prompts, *_, **settings: read.extend(prompts))
    monkeypatch.setattr(sys, "stdin", standard_input("café\r\n\r".encode(), encoding="latin-1"))
    call("generate", f"--workdir={model.workdir}", "--prompt=-")
    assert read == ["café\r\n\r"]


@pytest.mark.parametrize("system", ["utf-8", "latin-1"])
def test_standard_input_that_is_not_utf_8_is_refused_in_one_line(system: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", standard_input(b"caf\xe9!", system))
    with pytest.raises(
        UserError, match=r"^--prompt=-: standard input is not UTF-8: byte 0xe9 at offset 3; convert it.*iconv"
    ):
        call("generate", "--workdir=unread", "--prompt=-")


@pytest.mark.parametrize("flag", ["--prompt=caf\udce9", "--stop=caf\udce9", "--workdir=caf\udce9"])
def test_an_argument_that_is_not_utf_8_is_refused_before_anything_is_read(flag: str) -> None:
    with pytest.raises(UserError, match=rf"^argument '{flag[:-1]}\\udce9' is not UTF-8"):
        call("generate", "--workdir=unread", "--prompt=a", flag)


def test_an_output_that_has_not_every_character_is_refused_before_anything_is_read(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    with pytest.raises(UserError, match=r"standard output is ascii, .*set PYTHONIOENCODING=utf-8"):
        call("generate", "--workdir=unread", "--prompt=a")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii", errors="backslashreplace"))
    with pytest.raises(UserError, match="no run in 'unread'"):  # replacing is what was asked for
        call("generate", "--workdir=unread", "--prompt=a")


@pytest.mark.slow
def test_a_method_and_a_window_are_put_on_the_same_weights(model, capsys) -> None:
    prompt = " ".join(PROMPTS)
    for flags, other in (
        (["--method=rerope:window=8"], model.with_position("rerope", window=8)),
        (["--window=sliding:size=5"], model.with_window("sliding", size=5)),
        (["--window=streaming"], model.with_window("streaming")),
        (
            ["--method=linear:factor=2", "--window=lm_infinite:size=9,sinks=2"],
            model.with_position("linear", factor=2).with_window("lm_infinite", size=9, sinks=2),
        ),
    ):
        out = printed(capsys, model, f"--prompt={prompt}", "--temperature=0", *flags)
        assert out == f"{prompt}{other.generate(prompt, 16)}\n", flags


@pytest.mark.slow
def test_an_earlier_checkpoint_may_be_asked_for(tmp_path: Path, capsys) -> None:
    train(tiny.config(tmp_path, train__steps=4, train__checkpoint_steps=2), tmp_path / "run")
    earlier = lmarch.load(tmp_path / "run", step=2)
    expected = earlier.generate(PROMPTS[0], 16, temperature=0.8)
    capsys.readouterr()
    assert printed(capsys, earlier, f"--prompt={PROMPTS[0]}", "--step=2") == f"{PROMPTS[0]}{expected}\n"
    with pytest.raises(UserError, match=r"no checkpoint of step 3 .*saved: 2, 4"):
        printed(capsys, earlier, "--prompt=a", "--step=3")


MISTAKES = [
    (["--promt=a"], "unknown argument '--promt=a'; did you mean '--prompt'?"),
    (["--temprature=1"], "unknown argument '--temprature=1'; did you mean '--temperature'?"),
    (["--config.model.dim=3"], "--config.model.dim: this command has no config, only flags"),
    (["--max_new_tokens=many"], "invalid int value: 'many'"),
    (["--max_new_tokens=0"], "max_new_tokens=0"),
    (["--temperature=hot"], "invalid float value: 'hot'"),
    (["--temperature=-1"], "temperature=-1 must be 0 (greedy) or more"),
    (["--top_k=0"], "top_k=0 must be 1 or more"),
    (["--top_p=1.5"], "top_p=1.5 must be above 0"),
    (["--temperature=0", "--top_p=0.5"], "top_k and top_p need a temperature above 0"),
    (["--window=slidin"], "unknown window 'slidin'; did you mean 'sliding'?"),
    (["--window=sliding:size=0"], "sliding size=0 must be 1 or more"),
    (["--window=sliding:sise=4"], "sise"),
    (["--method=rerop"], "unknown position method 'rerop'; did you mean 'rerope'?"),
    (["--method=alibi:slope=3"], "slope"),
    (["--step=7"], "no checkpoint of step 7"),
    (["--stop="], "stop has an empty text"),
    (["--prompt="], "every prompt needs at least one token"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=[" ".join(flags) for flags, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_value(flags: list[str], message: str, model) -> None:
    with pytest.raises(UserError) as error:
        call("generate", f"--workdir={model.workdir}", "--prompt=a", *flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_run_is_named(model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run in .*nowhere"):
        call("generate", f"--workdir={tmp_path / 'nowhere'}", "--prompt=a")
    for flags, missing in ((["--prompt=a"], "--workdir"), ([f"--workdir={model.workdir}"], "--prompt")):
        with pytest.raises(UserError, match=missing):
            call("generate", *flags)


@pytest.mark.parametrize("flag", ["--temperature=-1", "--top_k=0", "--max_new_tokens=0", "--stop="])
def test_nothing_is_printed_before_a_mistake(flag: str, model, capsys) -> None:
    with pytest.raises(UserError):
        call("generate", f"--workdir={model.workdir}", f"--prompt={PROMPTS[0]}", flag)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seed", [2**32, 2**64, -1])
def test_a_seed_that_is_none_is_refused(seed: int, model) -> None:
    with pytest.raises(UserError, match=f"seed={seed}"):
        model.generate(PROMPTS[0], 4, temperature=1.0, seed=seed)


@pytest.mark.slow
def test_the_command_ends_with_status_2_and_one_line(model) -> None:
    flags = [f"--workdir={model.workdir}", "--prompt=the ", "--max_new_tokens=8"]
    status, out, _ = finish(start("generate", *flags))
    assert (status, out) == (0, f"the {model.generate('the ', 8, temperature=0.8)}\n")
    status, out, err = finish(start("generate", *flags, "--window=slidin"))
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("lmarch generate: unknown window 'slidin'; did you mean 'sliding'?")


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "characters"), [(1, 5), (2, 0)])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(model, prompts: int, characters: int) -> None:
    """While text of one prompt comes, and when that of several is printed at the end."""
    process = start("generate", f"--workdir={model.workdir}", *["--prompt=the fellow"] * prompts)
    assert process.stdout.read(characters) == "the fellow"[:characters]
    process.stdout.close()
    assert (process.wait(280), process.stderr.read()) == (128 + signal.SIGPIPE, "")
    process.stderr.close()
