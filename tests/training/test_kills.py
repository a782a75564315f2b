"""Kills at random moments, again and again: afterwards everything goes on, and ends as if it had never been stopped.

One kill each in every run of the tests; LMARCH_KILLS=20 for more.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import finish, start
from test_runs import assert_same_run, history

from lmarch.config import Config
from lmarch.config_files import load_config
from lmarch.evaluation.rows import read_rows
from lmarch.sweeping.study import Study
from lmarch.training.loop import train

KILLS = int(os.environ.get("LMARCH_KILLS", "1"))
LENGTHS = ("--suite=smoke", "--lengths=16,32,64")


def kill_again_and_again(begin: Callable[[], subprocess.Popen], seconds: float) -> None:
    """Starts a process and kills it with all that it has started, at moments of the first `seconds` that nothing decides."""
    moments = random.Random(time.time_ns())
    for _ in range(KILLS):
        process = begin()
        time.sleep(moments.uniform(0, seconds))
        for worker in [*children_of(process.pid), process.pid]:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:  # it has come to its end
                continue
        process.communicate()


def children_of(process: int) -> list[int]:
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


def end(process: subprocess.Popen) -> str:
    status, out, err = finish(process)
    assert status == 0, out + err
    return str(out)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> tuple[Path, Config]:
    """A config file, with a checkpoint and a validation at every second step."""
    folder = tmp_path_factory.mktemp("kills")
    saved = dict(train__checkpoint_steps=2, train__eval_steps=2, train__steps=40, model__num_layers=1)
    file = tiny.config_file(folder, **saved)
    return file, load_config(str(file))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> tuple[Path, float]:
    """The run of that config, never stopped, and how long it took."""
    run = tmp_path_factory.mktemp("whole") / "run"
    began = time.monotonic()
    end(start("train", f"--config={config[0]}", f"--workdir={run}"))
    return run, time.monotonic() - began


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_is_the_run_that_was_not(config, whole, tmp_path: Path) -> None:
    def begin() -> subprocess.Popen:
        return start("train", f"--config={config[0]}", f"--workdir={tmp_path / 'run'}")

    kill_again_and_again(begin, whole[1])
    end(begin())
    assert_same_run(tmp_path / "run", whole[0], config[1])


@pytest.mark.slow
def test_an_evaluation_that_is_killed_at_random_has_the_same_results(config, whole, tmp_path: Path) -> None:
    results = []
    for name in ("killed", "undisturbed"):
        run = tmp_path / name
        shutil.copytree(whole[0], run)

        def begin(run: Path = run) -> subprocess.Popen:
            return start("eval", f"--workdir={run}", *LENGTHS)

        if name == "killed":
            kill_again_and_again(begin, 20)
        end(begin())
        rows = read_rows(run / "eval" / "smoke" / "results.jsonl")
        results.append([(row["task"], row["metric"], row["method"], row["length"], row["value"]) for row in rows])
        assert (run / "eval" / "smoke" / "report.html").read_text().endswith("</html>\n")
    assert [row for row in results[0] if row[0] != "cost"] == [row for row in results[1] if row[0] != "cost"]


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_random_trains_every_trial_as_if_alone(config, tmp_path: Path) -> None:
    space = tmp_path / "space.py"
    space.write_text(
        "from lmarch.sweeping.space import grid\n\n"
        "def get_space(arg):\n    return grid({'train.learning_rate': (1e-3, 3e-3, 1e-2)})\n"
    )
    flags = (f"--config={config[0]}", f"--space={space}", "--suite=none", "--workers=2", f"--workdir={tmp_path / 's'}")
    kill_again_and_again(lambda: start("sweep", *flags), 25)
    end(start("sweep", *flags))
    study = Study(tmp_path / "s")
    trials = study.trials()
    assert [one.state for one in trials] == ["finished"] * 3
    for one in trials:
        assert one.folder is not None
        train(study.plan.config(one.point), tmp_path / "alone" / str(one.number))
        ours, theirs = history(one.folder), history(tmp_path / "alone" / str(one.number))
        assert [line[0] for line in ours] == [line[0] for line in theirs]  # every step once
        # Nearly: workers and this process have other numbers of devices.
        np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), rtol=1e-4, equal_nan=True)
