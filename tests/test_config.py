"""Configs: files, arguments, overrides, durations; every mistake is one line that names the value and the fix."""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from commands import ROOT, call, finish, start

from lmarch.command_line import parse, parser
from lmarch.config import Config, from_dict
from lmarch.config_files import load_config, override, parse_arg
from lmarch.errors import UserError
from lmarch.registry import format_variant, parse_variant

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def made(**groups) -> Config:
    return from_dict({"train": {"steps": 100}, **groups})


BAD = {
    "unknown field 'stps' in config.train; did you mean 'train.steps'?": {"train": {"stps": 3}},
    "unknown field 'trian' in config; did you mean 'train'?": {"trian": {"steps": 3}},
    "config.train.steps='many' must be a whole number": {"train": {"steps": "many"}},
    "config.train.steps=1.5 must be a whole number": {"train": {"steps": 1.5}},
    "config.train.steps=True must be a whole number": {"train": {"steps": True}},
    "config.train.steps=0 must be above 0 and finite": {"train": {"steps": 0}},
    "config.model.qk_norm=1 must be true or false": {"train": {"steps": 1}, "model": {"qk_norm": 1}},
    "config.model.ffn='swigl' is not one of swiglu, geglu, gelu, gelu_exact, relu; did you mean 'swiglu'?": {
        "train": {"steps": 1},
        "model": {"ffn": "swigl"},
    },
    "config.train has both steps=3 and tokens=9: keep one": {"train": {"steps": 3, "tokens": 9}},
    "config.train has both warmup_steps=1 and warmup_tokens=9": {
        "train": {"steps": 3, "warmup_steps": 1, "warmup_tokens": 9}
    },
    "config.train needs a length: set config.train.steps or config.train.tokens": {},
    "warm-up and decay take 5 steps, more than the run's 3": {"train": {"steps": 3, "warmup_steps": 5}},
    "config.train.decay_* belongs to schedule='wsd'": {"train": {"steps": 3, "decay_steps": 1}},
    "config.model.num_kv_heads=3 must divide num_heads=4": {"train": {"steps": 1}, "model": {"num_kv_heads": 3}},
    "config.model.dim=130 must be a multiple of num_heads=4": {"train": {"steps": 1}, "model": {"dim": 130}},
    "config.data.batch_rows=32 must be a multiple of train.accumulate=5": {"train": {"steps": 1, "accumulate": 5}},
    "config.train.warmup_steps=-5 must not be negative": {"train": {"steps": 3, "warmup_steps": -5}},
    "config.train.schedule='wsd' needs a decay": {"train": {"steps": 3, "schedule": "wsd"}},
    "config.train.learning_rate=inf must be above 0 and finite": {"train": {"steps": 3, "learning_rate": 1e999}},
    "config.model.seed=-1 must be in [0, 2**32)": {"train": {"steps": 3}, "model": {"seed": -1}},
    "config.data.row_length=256 trains past config.model.trained_length=128": {
        "train": {"steps": 3},
        "data": {"row_length": 256},
    },
    "config.mesh=(-1, -1, 1) may leave only one axis at -1": {"train": {"steps": 1}, "mesh": {"fsdp": -1}},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_config_is_refused_with_the_value_and_the_fix(message: str) -> None:
    with pytest.raises(UserError) as error:
        from_dict(BAD[message])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_durations_are_steps_or_tokens() -> None:
    assert made(train={"tokens": 10_000}).total_steps == 3  # 32 rows of 128 tokens, rounded up
    config = made(train={"steps": 100, "warmup_tokens": 4096 * 7, "checkpoint_steps": 20})
    assert (config.steps("warmup"), config.steps("checkpoint"), config.steps("eval")) == (7, 20, None)


def test_the_fingerprint_changes_exactly_with_what_is_computed() -> None:
    same = [made(), made(data={"cache_dir": "/elsewhere"}), made(mesh={"fsdp": 2}), made(eval={"suite": "full"})]
    assert len({config.fingerprint() for config in same}) == 1
    other = [made(train={"steps": 101}), made(model={"seed": 1}), made(data={"mask_documents": False})]
    assert len({config.fingerprint() for config in [*same, *other]}) == 4


# How a run is carried out, and nothing that it computes.
SPEED = {"train.accumulate", "model.scan_layers", "model.attention", "model.remat"}  # and memory
CARRIED_OUT = {
    *SPEED,
    "train.branch_from",
    *("eval", "mesh", "data.folder", "data.cache_dir", "data.download", "data.prefetch"),
    *("data.pack_processes", "data.feeding_processes"),
    *(f"train.{name}" for name in ("checkpoint_steps", "checkpoint_tokens", "log_steps", "keep_checkpoints")),
}


def fields_of(group, above: str = "") -> Iterator[str]:
    for field in dataclasses.fields(group):
        value, name = getattr(group, field.name), above + field.name
        inner = dataclasses.is_dataclass(value) and name not in CARRIED_OUT
        yield from fields_of(value, f"{name}.") if inner else [name]


def fingerprint_with_another(config: Config, name: str) -> str:
    """With something else in a field, whatever its type."""
    made = copy.deepcopy(config)
    *groups, field = name.split(".")
    object.__setattr__(functools.reduce(getattr, groups, made), field, "another")
    return made.fingerprint()


def test_every_field_is_in_the_fingerprint_but_those_that_only_carry_a_run_out() -> None:
    config = made()
    same = {name for name in fields_of(config) if fingerprint_with_another(config, name) == config.fingerprint()}
    assert same == CARRIED_OUT


def test_a_config_survives_json() -> None:
    config = made(model={"position": {"name": "ntk", "factor": 2.0}}, eval={"lengths": [64, 128]})
    assert from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("train.steps", "2_000", {"train": {"steps": 2000}}),
        ("train.clip_norm", "none", {"train": {"clip_norm": None}}),
        ("train.start_from", "20241126_0728", {"train": {"start_from": "20241126_0728"}}),  # and no number
        ("train.start_from", "1e5", {"train": {"start_from": "1e5"}}),
        ("train.start_from", "none", {"train": {"start_from": None}}),
        ("model.remat", "none", {"model": {"remat": "none"}}),  # the name of a choice
        ("train.learning_rate", "1e-3", {"train": {"learning_rate": 1e-3}}),
        ("model.qk_norm", "true", {"model": {"qk_norm": True}}),
        ("data.corpus", "text:a,b=*.txt", {"data": {"corpus": "text:a,b=*.txt"}}),
        ("model.position", "ntk:factor=8", {"model": {"position": {"name": "ntk", "factor": 8}}}),
        ("model.position.factor", "8", {"model": {"position": {"name": "rope", "factor": 8}}}),
        ("train.optimizer.b2", "0.9", {"train": {"optimizer": {"name": "adamw", "b2": 0.9}}}),
        ("eval.lengths", "64,128", {"eval": {"lengths": (64, 128)}}),
        ("eval.lengths", "none", {"eval": {"lengths": None}}),
        ("eval.methods", "rope,yarn:a=1,b=2", {"eval": {"methods": ("rope", "yarn:a=1,b=2")}}),
    ],
)
def test_overrides_reach_every_field(key: str, text: str, expected: dict) -> None:
    tree: dict = {}
    override(tree, key, text)
    assert tree == expected


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.step", "unknown field 'step' in --config.train.step; did you mean 'train.steps'?"),
        ("eval.sed", "did you mean 'eval.seed'?"),  # and not that of the data
        ("model.position_schedul", "did you mean 'train.position_schedule'?"),
        (
            "learning_rate",
            "unknown field 'learning_rate' in --config.learning_rate; did you mean 'train.learning_rate'?",
        ),
        ("model.lr", "unknown field 'lr' in --config.model.lr; lmarch calls it 'train.learning_rate'"),
        ("rope_scaling", "lmarch calls it 'model.position'"),
        ("trian.steps", "unknown field 'trian' in --config.trian.steps; did you mean 'train'?"),
        ("train", "--config.train is a group of fields"),
        ("train.steps.x", "is a value, not a group of fields"),
    ],
)
def test_bad_overrides_name_the_nearest_field(key: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        from_dict(_with(key))
    assert message in str(error.value)


def _with(key: str) -> dict:
    tree: dict = {"train": {"steps": 3}}
    override(tree, key, "1")
    return tree


def test_config_arguments_are_typed_and_checked() -> None:
    assert parse_arg("size=tiny,length=64", size="small", length=256) == {"size": "tiny", "length": 64}
    for argument, message in {
        "siz=tiny": "unknown config argument 'siz'; did you mean 'size'?",
        "length=long": "config argument length='long' must be a whole number",
        "size": "has no value",
    }.items():
        with pytest.raises(UserError, match="config argument") as error:
            parse_arg(argument, size="small", length=256)
        assert message in str(error.value)


@pytest.mark.parametrize("text", ["rope", "ntk:factor=8", "rerope:frequencies=ntk,window=64"])
def test_variants_round_trip(text: str) -> None:
    assert format_variant(parse_variant(text)) == text


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_config_loads(file: Path) -> None:
    assert load_config(str(file)).total_steps > 0
    assert "lmarch" in (docstring := file.read_text().split('"""')[1]) or "make" in docstring


def test_a_shipped_config_takes_arguments_and_names_the_nearest() -> None:
    config = load_config(
        "causal_decoder:rope=ntk,size=tiny,length=64", [("train.steps", "100"), ("train.warmup_steps", "5")]
    )
    assert (config.model.position["name"], config.model.trained_length, config.total_steps) == ("ntk", 64, 100)
    with pytest.raises(UserError, match="unknown size 'tyny'; did you mean 'tiny'"):
        load_config("causal_decoder:size=tyny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/dmo.py", "--workdir={}"],
            "no config file 'configs/dmo.py'; did you mean 'configs/demo.py'?",
        ),
        (["--config=configs/demo.py", "--wrkdir={}"], "--workdir"),
        (["--config=configs/demo.py", "--workdir={}", "--stps=3"], "unknown argument '--stps=3'"),
        (["--config=configs/demo.py", "--workdir={}", "--config.train.stps", "3"], "did you mean 'train.steps'?"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        call("train", *(a.format(tmp_path / "run") for a in arguments))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_refusal_is_all_that_a_command_says_and_its_status_is_2(tmp_path: Path) -> None:
    status, out, err = finish(start("train", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}", "--stps=3"))
    assert (status, out) == (2, "")
    assert err.startswith("lmarch train: unknown argument '--stps=3'")
    assert err.count("\n") == 1


def test_a_flag_is_spelled_out() -> None:
    flags = parser(None)
    flags.add_argument("--lengths")
    with pytest.raises(UserError, match="unknown argument '--length=64'; did you mean '--lengths'"):
        parse(flags, ["--length=64"])


def test_the_tiny_config_of_the_tests_is_a_config_file_too(tmp_path: Path) -> None:
    assert load_config(str(tiny.config_file(tmp_path))) == tiny.config(tmp_path)


def test_a_parameter_of_a_variant_inside_a_variant_can_be_overridden(tmp_path: Path) -> None:
    tree = tiny.tree(tmp_path)
    override(tree, "model.position", "rerope:frequencies=ntk")
    override(tree, "model.position.frequencies.factor", "4")
    override(tree, "model.position.window", "8")
    assert from_dict(tree).model.position == {
        "name": "rerope",
        "window": 8,
        "frequencies": {"name": "ntk", "factor": 4},
    }


def test_variants_may_be_text_anywhere(tmp_path: Path) -> None:
    layers = ({"position": "nope", "window": "sliding:size=4"}, {})
    text = tiny.config(tmp_path, model__position="ntk:factor=4", model__layers=layers)
    mapping = tiny.config(
        tmp_path,
        model__position={"name": "ntk", "factor": 4},
        model__layers=({"position": {"name": "nope"}, "window": {"name": "sliding", "size": 4}}, {}),
    )
    assert text.fingerprint() == mapping.fingerprint()


def test_a_variants_parameters_follow_it_in_a_config_argument() -> None:
    given = parse_arg("rope=rerope:window=64,temperature=log_n,size=tiny", size="small", rope="rope")
    assert given == {"rope": "rerope:window=64,temperature=log_n", "size": "tiny"}
    with pytest.raises(UserError, match="unknown config argument 'sise'; did you mean 'size'"):
        parse_arg("rope=rope,sise=tiny", size="small", rope="rope")
