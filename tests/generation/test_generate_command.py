"""`lmarch generate`: what it prints, what it reads, and what it refuses."""

import io
import signal
import sys
from pathlib import Path

import pytest
import tiny
from commands import call, finish, start
from spelling import PROMPTS

import lmarch
from lmarch.errors import UserError
from lmarch.loading import Model
from lmarch.training.loop import train


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
