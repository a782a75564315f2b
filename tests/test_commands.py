"""`lmarch VERB`: what a user types, whose help lists every field, and which forgives other trainers' names."""

import subprocess
import sys
from pathlib import Path

import pytest

from lmarch import shipped
from lmarch.command_line import folder, parse, parser
from lmarch.commands import VERBS
from lmarch.config.describing import all_fields, groups
from lmarch.config.help import group_help
from lmarch.config.names import ELSEWHERE, every_field, field_meant
from lmarch.config_files import load_config, override
from lmarch.errors import UserError
from lmarch.sweeping.space_files import load_space


def lmarch(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lmarch", *arguments], cwd=folder, capture_output=True, text=True)


def test_the_command_lists_its_verbs_and_names_the_nearest(tmp_path: Path) -> None:
    listed = lmarch("--help", folder=tmp_path)
    assert listed.returncode == 0
    assert all(f"  {verb} " in listed.stdout for verb in VERBS)
    wrong = lmarch("evla", folder=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "lmarch: unknown verb 'evla'; did you mean 'eval'?\n"


def test_the_scripts_of_a_checkout_are_the_verbs() -> None:
    for verb in VERBS.keys() - {"show"}:
        script = shipped.PACKAGE.parent / f"{verb}.py"
        assert script.read_text().endswith(f'run("{verb}")\n')


def test_help_ends_in_the_groups_of_a_config_and_lists_the_fields_of_one(capsys) -> None:
    for arguments, wanted in ((["--help"], "--help=model.encoder"), (["--help=model"], "trained_length")):
        with pytest.raises(SystemExit) as ended:
            parse(parser("Train.", config=True), arguments)
        assert ended.value.code == 0
        assert wanted in capsys.readouterr().out
    with pytest.raises(UserError, match="no such group of fields; did you mean 'model'"):
        parse(parser("Train.", config=True), ["--help=modl"])


def test_every_field_has_a_type_a_default_and_a_meaning() -> None:
    described = list(all_fields())
    assert [field.name for field in described] == list(dict.fromkeys(field.name for field in described))
    assert {field.name for field in described} == set(every_field())
    for field in described:
        assert field.kind, field
        assert field.default, field
        assert len(field.meaning) > 8, field


def test_a_group_says_of_a_field_what_its_comment_says() -> None:
    assert set(groups()) == {"train", "data", "model", "model.encoder", "eval", "mesh"}
    lines = group_help("model").splitlines()
    assert next(line for line in lines if line.startswith("num_layers")).split()[1] == "4"
    text = " ".join(" ".join(lines).split())
    assert "Norms multiply by 1 + w instead of w" in text  # a comment beside the field
    assert "more: --help=model.encoder" in text


def test_what_other_trainers_call_a_field_points_to_a_field_that_there_is() -> None:
    for theirs, ours in ELSEWHERE.items():
        assert theirs not in {field.rpartition(".")[2] for field in every_field()}, theirs
        tree: dict = {}
        override(tree, ours, "1")
        assert tree, ours
    for name in ("max_position_embeddings", "rope_scaling", "rope_theta", "lr", "batch_size", "seq_len"):
        assert field_meant(name), name


def test_a_flag_that_is_a_field_says_how_to_write_it() -> None:
    for flag, wanted in {
        "--lr=1": "write --config.train.learning_rate=VALUE",
        "--num-layers=2": "write --config.model.num_layers=VALUE",
        "--wrkdir=a": "did you mean '--workdir'?",
    }.items():
        flags = parser("Train.", config=True)
        flags.add_argument("--workdir")
        with pytest.raises(UserError) as error:
            parse(flags, [flag])
        assert wanted in str(error.value)


def test_configs_and_spaces_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in shipped.names(shipped.CONFIGS):
        assert load_config(name) == load_config(str(shipped.CONFIGS / f"{name}.py"))
    for name in shipped.names(shipped.SPACES):
        assert load_space(name).size
    for source, message in {
        "dmo": "lmarch has no config 'dmo'; did you mean 'demo'? (a file of yours: PATH.py)",
        "configs/demo.py": "no config file 'configs/demo.py' here; lmarch's own is --config=demo",
        "mine.py": "no config file 'mine.py'; known: ",
    }.items():
        with pytest.raises(UserError) as error:
            load_config(source)
        assert message in str(error.value)


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path: Path) -> None:
    piped = f"{sys.executable} -m lmarch train --help=model | head -1"
    done = subprocess.run(piped, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("--config.model.FIELD=VALUE")
    assert done.stderr == ""


def test_a_home_is_a_home_and_a_url_is_no_folder(monkeypatch) -> None:
    """No shell expands the `~` in --workdir=~/x, and a folder that is named `~` or `gs:` is nobody's wish."""
    monkeypatch.setenv("HOME", "/home/somebody")
    flags = parser("Train.")
    flags.add_argument("--workdir", type=folder)
    assert parse(flags, ["--workdir=~/runs/a"])[0].workdir == Path("/home/somebody/runs/a")
    with pytest.raises(UserError, match=r"--workdir: gs://bucket/a is a URL, and lmarch writes folders"):
        parse(flags, ["--workdir=gs://bucket/a"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    ("output", "status", "said"),
    [
        (
            ">/dev/full",
            2,
            "lmarch reproduce: what is printed, or a file, cannot be read or written (No space left on device)\n",
        ),
        (">&-", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_is_no_traceback(output: str, status: int, said: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m lmarch reproduce --list {output}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)
