"""Runs that are killed, interrupted or starved of disk, as a user's are: real processes, real signals."""

import json
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import commands
import numpy as np
import pytest
import tiny
from test_runs import assert_same_run, history

from lmarch.config_files import load_config
from lmarch.training.checkpoints import saved_steps
from lmarch.training.metrics import read_metrics


def start(folder: Path, workdir: Path, devices: int = 1, **changes) -> subprocess.Popen:
    file = tiny.config_file(folder, **{"train__steps": 40, "train__checkpoint_steps": 5, **changes})
    return commands.start("train", f"--config={file}", f"--workdir={workdir}", devices=devices)


def wait_until(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


def last_step(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(folder, folder / "run")
    assert process.wait() == 0, process.communicate()
    return folder


def finish_and_compare(folder: Path, workdir: Path) -> None:
    process = start(folder, workdir)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert_same_run(workdir, folder / "run", load_config(str(folder / "tiny.py")))


@pytest.mark.slow
def test_a_run_killed_between_saves_goes_on_bitwise(uninterrupted: Path, tmp_path: Path) -> None:
    process = start(uninterrupted, tmp_path / "run")
    wait_until(lambda: last_step(tmp_path / "run") >= 7, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish_and_compare(uninterrupted, tmp_path / "run")


@pytest.mark.slow
def test_a_run_killed_during_a_save_goes_on_bitwise(uninterrupted: Path, tmp_path: Path) -> None:
    """Killed as soon as the folder of a save appears, until it is left unfinished."""
    workdir = tmp_path / "run"

    def unfinished() -> list[Path]:
        return [path for path in (workdir / "checkpoints").glob("*") if "tmp" in path.name]

    for _ in range(4):
        process = start(uninterrupted, workdir)
        wait_until(unfinished, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if unfinished():
            break
    assert unfinished()
    finish_and_compare(uninterrupted, workdir)
    assert not unfinished()


@pytest.mark.slow
def test_a_signal_saves_and_stops_and_the_run_goes_on_bitwise(uninterrupted: Path, tmp_path: Path) -> None:
    """Ctrl-C; SIGTERM is sent to runs of this process, in test_runs.py."""
    workdir = tmp_path / "run"
    process = start(uninterrupted, workdir)
    wait_until(lambda: last_step(workdir) >= 7, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    stopped = max(saved_steps(workdir))
    assert f"stopped after step {stopped}, which is saved" in err
    assert stopped == last_step(workdir)
    assert "stopped" in json.loads((workdir / "run.json").read_text())["status"]
    finish_and_compare(uninterrupted, workdir)


@pytest.mark.slow
def test_a_full_disk_is_one_line_that_names_the_last_good_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands in for a full disk: writes fail once a checkpoint was saved."""
    workdir = tmp_path / "run"
    process = start(uninterrupted, workdir)
    wait_until(lambda: saved_steps(workdir), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3000, 3000))
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "could not be saved" in err or "cannot be written" in err
    assert "the last good checkpoint is" in err.splitlines()[-1]
    assert "Traceback" not in err
    finish_and_compare(uninterrupted, workdir)


@pytest.mark.slow
def test_one_device_and_eight_give_the_same_run(uninterrupted: Path, tmp_path: Path) -> None:
    process = start(tmp_path, tmp_path / "run", devices=8, mesh__data=1, mesh__fsdp=4, mesh__tensor=2)
    assert process.wait() == 0, process.communicate()
    ours, theirs = (np.array(history(folder / "run"), float) for folder in (tmp_path, uninterrupted))
    np.testing.assert_allclose(ours[:20], theirs[:20], rtol=1e-6)
    # From about there on, steps amplify rounding: after 40, a gradient's norm differs by 1e-5, the losses by 1e-6.
    losses = [0, 1, 2]
    np.testing.assert_allclose(ours[:, losses], theirs[:, losses], rtol=1e-5)


@pytest.mark.slow
def test_a_second_training_is_told_who_trains_there_and_disturbs_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    first = start(uninterrupted, workdir)
    wait_until(lambda: last_step(workdir) >= 3, first)
    first.send_signal(signal.SIGSTOP)  # it must not come to its end before the second has looked
    second = start(uninterrupted, workdir)
    _, err = second.communicate()
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert re.fullmatch(
        rf"lmarch train: {workdir} is being written by process {first.pid} on \S+ \(lmarch train .*\): wait .*\n", err
    )
    assert first.wait() == 0
    assert json.loads((workdir / "run.json").read_text())["status"] == "finished"
    assert_same_run(workdir, uninterrupted / "run", load_config(str(uninterrupted / "tiny.py")))
    steps = [m["step"] for m in read_metrics(workdir) if "loss" in m]
    assert steps == list(range(1, 41))
