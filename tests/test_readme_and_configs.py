"""What the README shows and what is shipped works: every config traces and takes a step, every command runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import alone
import jax
import numpy as np
import pytest
from commands import flags_for

import lmarch
from lmarch.config import Config
from lmarch.config_files import load_config
from lmarch.data.plan import make_plan
from lmarch.data.tokenizers import load_tokenizer
from lmarch.models.definition import ModelDefinition
from lmarch.training.step import Program, make_program

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "configs").glob("*.py"))
VARIANTS = [
    *CONFIGS,
    "configs/causal_decoder.py:size=tiny,rope=ntk,length=64",
    "configs/causal_decoder.py:size=base",
    "configs/prefix_decoder.py:size=tiny,objective=blank_infilling",
    "configs/encoder_decoder.py:size=tiny,match=parameters,objective=ul2,cross_positions=continuous",
]
SMALL = {
    "model.num_layers": "4",
    "model.dim": "32",
    "model.num_heads": "4",
    "model.trained_length": "16",
    "data.batch_rows": "8",
}


def program_and_batch(config: Config) -> tuple[Program, dict[str, np.ndarray]]:
    """The program of a config, and a batch of random text as its feed makes it."""
    tokenizer, plan = load_tokenizer("bytes"), make_plan(config)
    budget = plan.budget
    nothing = () if budget is None else (0,) * len(budget.limits)
    width = config.row_length + 1 if budget is None else budget.longest_piece(nothing, config.row_length)
    tokens = np.random.default_rng(0).integers(0, 256, (config.data.batch_rows, width))
    batch = plan.feed(tokenizer)(tokens, np.zeros(tokens.shape, np.int32), 0, range(len(tokens)), sample=True)
    return make_program(config, ModelDefinition(config.model, plan.vocabulary_size(tokenizer))), batch


@pytest.mark.parametrize("source", VARIANTS)
def test_a_shipped_config_traces_at_full_size(source: str) -> None:
    config = load_config(str(ROOT / source))
    program, batch = program_and_batch(config)
    state, metrics = jax.eval_shape(program.step, program.abstract_state, batch, program.rates.at(0))
    assert metrics["loss"].shape == ()
    assert jax.tree.structure(state) == jax.tree.structure(program.abstract_state)


@pytest.mark.slow
@pytest.mark.parametrize("source", CONFIGS)
def test_a_shipped_config_takes_a_step_at_reduced_size(source: str) -> None:
    config = load_config(str(ROOT / source), list(SMALL.items()))
    program, batch = program_and_batch(config)
    assert program
    _, metrics = alone.steps(config, alone.definition(config), alone.again(batch, 1))
    assert metrics["finite"].all()


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = "".join(readme_blocks("")).splitlines()
    return [shlex.split(line) for line in lines if line.startswith("lmarch ")]


@pytest.mark.slow
def test_the_readme_commands_and_its_python_run(tmp_path: Path) -> None:
    """As they stand, on the default corpus, but for a short run and a workdir of the test's own."""
    shorter = ["--config.train.steps=4", "--config.train.warmup_steps=1", "--config.train.eval_rows=8"]
    environment = {**os.environ, "XLA_FLAGS": flags_for(), "HOME": str(tmp_path)}
    sweep = [*shorter, "--suite=none", "--config.model.dim=32", "--config.model.num_layers=1"]
    extra = {"train": shorter, "eval": [], "generate": ["--max_new_tokens=8"], "sweep": sweep}
    assert [command[1] for command in commands()] == list(extra)
    printed = {}
    for _, verb, *flags in commands():
        mine = [flag.replace("runs/", f"{tmp_path}/").replace("suite=cpu", "suite=smoke") for flag in flags]
        done = subprocess.run(
            [sys.executable, "-m", "lmarch", verb, *(flag.strip("[]") for flag in mine), *extra[verb]],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        printed[verb] = done.stdout
    assert "report:" in printed["eval"]
    assert "9 of 9 trials: 9 finished" in printed["sweep"]
    assert printed["generate"].startswith("Fellow citizens")
    (snippet,) = readme_blocks("python")
    names = {"lmarch": lmarch, "tokens_BT": np.ones((1, 8), np.int32)}
    names |= {
        f"{name}_B{dims}": np.ones((1, 8, 8, 64), np.float32)
        for name, dims in zip("qkv", ("THK", "SHK", "SHK"), strict=True)
    }
    exec(snippet.replace("runs/a", str(tmp_path / "a")), names)
    assert names["logits_BTV"].shape == (1, 8, 264)
    assert names["visible_TS"].sum() == 16 * 17 / 2
