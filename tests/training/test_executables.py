"""What is compiled once for all trials of a sweep: their rates and lengths are arguments of the step."""

from pathlib import Path

import alone
import compilations
import jax
import pytest
import tiny

from lmarch.config import Config
from lmarch.training import executables
from lmarch.training.executables import executable
from lmarch.training.step import Program, make_program

ALIKE = {
    "learning rate": {"train__learning_rate": 3e-4},
    "weight decay": {"train__optimizer": {"name": "adamw", "weight_decay": 0.0}},
    "length": {"train__steps": 300, "train__warmup_steps": 30, "train__final_fraction": 0.5},
    "schedule": {"train__schedule": "wsd", "train__decay_steps": 2},
    "seeds": {"model__seed": 7, "data__seed": 8},
    "care": {"train__log_steps": 3, "train__eval_steps": 2, "train__checkpoint_steps": 4, "train__eval_rows": 8},
}
OTHERS = {
    "optimizer": {"train__optimizer": {"name": "adamw", "b2": 0.99}},
    "frequencies": {"model__rope_base": 500.0},
    "average": {"train__average_decay": 0.9},
}


def program_of(config: Config) -> Program:
    return make_program(config, alone.definition(config))


def lowered(config: Config) -> jax.stages.Lowered:
    program = program_of(config)
    return program.step.lower(program.abstract_state, alone.loader(config).batch(0), program.rates.at(0))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return lowered(tiny.config(tmp_path_factory.mktemp("one"))).as_text()


@pytest.mark.parametrize("what", ALIKE)
def test_a_step_is_the_same_program_whatever_its_rates_length_and_seeds(what: str, text: str, tmp_path: Path) -> None:
    assert lowered(tiny.config(tmp_path, **ALIKE[what])).as_text() == text


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_argument_makes_another_program(what: str, text: str, tmp_path: Path) -> None:
    assert lowered(tiny.config(tmp_path, **OTHERS[what])).as_text() != text


@pytest.mark.slow
def test_a_program_is_compiled_once_though_caches_are_cleared(tmp_path: Path) -> None:
    rates = (1e-3, 1e-2)
    executables._compiled.cache_clear()  # of other tests' programs, of which this may be one
    with compilations.counted() as names:
        made = []
        for rate in rates:
            made.append(executable(lowered(tiny.config(tmp_path, train__learning_rate=rate, model__num_layers=1))))
            jax.clear_caches()
    assert made[0] is made[1]
    assert names.count("jit(train_step)") == 1


def test_weights_of_every_seed_are_drawn_by_one_program(tmp_path: Path) -> None:
    first, second = (program_of(tiny.config(tmp_path, model__seed=seed)).init for seed in (0, 1))
    assert first.func.lower(*first.args).as_text() == second.func.lower(*second.args).as_text()
