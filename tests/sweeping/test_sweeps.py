"""Sweeps as a user runs them: real processes, killed, started twice, on a database, through a launcher."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import tiny
from commands import call, finish, start
from fake_slurm import FakeSlurm

from lmarch.errors import UserError
from lmarch.sweeping.study import Study, Trial
from lmarch.sweeping.worker import GAVE_UP
from lmarch.training.checkpoints import saved_steps
from lmarch.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
SPACE = """
from lmarch.sweeping.space import grid, product, seeds

def get_space(arg):
    rates = (1e-3, 3e-3, 1e-2)
    return product(grid({"train.learning_rate": rates[: int(arg or 3)]}), seeds(0, 1))
"""


class Sweep:
    """A sweep of up to 6 tiny trials, for the command line."""

    def __init__(self, folder: Path, **changes) -> None:
        changes = {"train__steps": 20, "train__checkpoint_steps": 5, "model__num_layers": 1, **changes}
        self.folder, self.workdir, self.steps = folder, folder / "s", changes["train__steps"]
        self.config, self.space = tiny.config_file(folder, **changes), folder / "space.py"
        self.space.write_text(SPACE)

    def start(
        self,
        *flags: str,
        rates: int = 3,
        suite: str = "none",
        begin: bool = True,
        environment: Mapping[str, str] = os.environ,
    ) -> subprocess.Popen:
        return start("sweep", *self.given(*flags, rates=rates, suite=suite, begin=begin), environment=environment)

    def given(self, *flags: str, rates: int = 3, suite: str = "none", begin: bool = True) -> list[str]:
        begins = [f"--config={self.config}", f"--space={self.space}:{rates}", f"--suite={suite}"] if begin else []
        return [*begins, f"--workdir={self.workdir}", *flags]

    def run(self, *flags: str, **named) -> str:
        status, out, err = finish(self.start(*flags, **named))
        assert status == 0, out + err
        return out

    def trials(self) -> list[Trial]:
        return Study(self.workdir).trials()

    def workers(self) -> list[int]:
        """Process ids of workers of this sweep."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = file.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"work" in words and f"--workdir={self.workdir}".encode() in words:
                found.append(int(file.parent.name))
        return found

    def running(self) -> list[Trial]:
        return [one for one in self.trials() if one.state == "running" and one.folder and read_metrics(one.folder)]

    def assert_each_trained_once(self, count: int) -> None:
        trials = self.trials()
        assert [one.state for one in trials] == ["finished"] * count, [one.record for one in trials]
        assert len({one.folder for one in trials}) == count
        for one in trials:
            assert one.folder is not None
            steps = [entry["step"] for entry in read_metrics(one.folder) if "loss" in entry]
            assert steps == list(range(1, self.steps + 1))
        complete = Study(self.workdir)._trials()
        assert len(complete) == count
        assert {one.state.name for one in complete} == {"COMPLETE"}


def wait_until(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_every_trial_is_trained_once_whoever_is_killed_and_whoever_joins(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, train__steps=400, train__checkpoint_steps=100)  # long enough to be met while they run
    coordinator = sweep.start("--workers=2")
    wait_until(lambda: sweep.workdir.joinpath("sweep.json").exists() and len(sweep.running()) == 2)
    os.kill(sweep.workers()[0], signal.SIGKILL)
    wait_until(lambda: len(sweep.running()) == 2)  # its trial was taken over, or the worker began again
    coordinator.kill()
    coordinator.communicate()
    assert sweep.workers()  # they need no coordinator
    for worker in sweep.workers():
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: all(one.state != "running" for one in sweep.trials()))
    assert any(one.state in ("interrupted", "waiting") for one in sweep.trials())
    both = [sweep.start("--workers=1"), sweep.start("--workers=1", begin=False)]
    for process in both:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, out + err
    sweep.assert_each_trained_once(6)
    assert "6 of 6 trials: 6 finished" in out
    assert call("sweep", *sweep.given("--workers=2")) == 0  # and a third time nothing is left to do
    sweep.assert_each_trained_once(6)


@pytest.mark.slow
def test_a_sweep_stops_at_ctrl_c_and_goes_on(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, train__steps=1500, train__checkpoint_steps=500)  # long enough to be met while they run
    process = sweep.start("--workers=2", rates=1)
    wait_until(lambda: sweep.workdir.joinpath("sweep.json").exists() and len(sweep.running()) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not sweep.workers()
    sweep.run("--workers=2", begin=False)
    sweep.assert_each_trained_once(2)


@pytest.mark.slow
def test_the_commands_list_watch_and_collect(tmp_path: Path, capsys) -> None:
    sweep = Sweep(tmp_path, eval__lengths=(16, 32, 64), eval__targets=8)
    assert call("sweep", *sweep.given("--dry-run", "--workers=2", rates=1)) == 0
    listed = capsys.readouterr().out
    assert "train.learning_rate=0.001 seed=1" in listed
    assert "FLOPs" in listed
    assert not sweep.workdir.exists()
    sweep.run("--workers=1", rates=1, suite="smoke")
    assert call("sweep", "status", f"--workdir={sweep.workdir}") == 0
    status = capsys.readouterr().out
    assert "2 of 2 trials: 2 finished" in status
    assert "best" in status
    assert (sweep.workdir / "report.html").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers=0"], "--workers=0 must be 1 or more"),
        (["--launcher=lokal"], "did you mean 'local'"),
        (["--launcher=local:restart=1"], "did you mean 'restarts'"),
        (["--suite=smoky"], "did you mean 'smoke'"),
        (["--pruner=mean"], "--pruner=mean is not one of none, median, hyperband"),
        (["--config.train.stepps=3"], "did you mean 'train.steps'"),
        (
            ["--storage=postgresql://nobody@127.0.0.1:9/none"],
            "--storage=postgresql://nobody@127.0.0.1:9/none cannot be opened",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, flags: list[str], words: str) -> None:
    sweep = Sweep(tmp_path)
    with pytest.raises(UserError) as error:
        call("sweep", *sweep.given(*flags))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (sweep.workdir / "sweep.json").exists()


@pytest.mark.slow
def test_slurm_workers_run_through_submitit_and_the_script_is_shown(tmp_path: Path) -> None:
    """All in processes of their own: submitit takes standard output for its log, also from pytest."""
    sweep = Sweep(tmp_path)
    script = sweep.run("--dry-run", "--workers=3", "--launcher=slurm:partition=gpu,gpus=1,hours=2", rates=1)
    for line in ("#SBATCH --array=0-2", "#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --time=120"):
        assert line in script
    sweep.run("--workers=2", "--launcher=slurm:cluster=local", rates=1)
    sweep.assert_each_trained_once(2)
    assert list((sweep.workdir / "slurm").glob("*_log.out"))


@pytest.mark.slow
def test_a_slurm_array_is_submitted_as_shown_and_a_job_that_is_preempted_comes_again(tmp_path: Path) -> None:
    sweep, slurm = Sweep(tmp_path, train__steps=300, train__checkpoint_steps=100), FakeSlurm(tmp_path / "slurm")
    flags = ("--workers=2", "--launcher=slurm:partition=gpu,gpus=1,hours=2")
    shown = sweep.run("--dry-run", *flags, rates=1)
    assert "submitted: 7_0, 7_1" in sweep.run(*flags, rates=1, environment=slurm.environment)
    assert shown.endswith(slurm.script + "\n")
    job = slurm.start(0)
    wait_until(lambda: len(sweep.running()) == 1)
    slurm.preempt(job)
    job.wait(timeout=60)
    assert slurm.asked == ["requeue 7_0"]
    (stopped,) = [one for one in sweep.trials() if one.state == "interrupted"]
    assert stopped.record["state"] == "stopped"  # and not running, as of one that was killed
    assert stopped.folder is not None
    assert saved_steps(stopped.folder)[-1] == max(entry["step"] for entry in read_metrics(stopped.folder))
    jobs = [slurm.start(task) for task in range(2)]
    for job in jobs:
        assert job.wait(timeout=280) == 0
    sweep.assert_each_trained_once(2)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The address of a database of a server that ends with the test."""
    found = [shutil.which("initdb"), *Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    programs = next((Path(str(path)).resolve().parent for path in found if path), None)
    if programs is None:
        pytest.skip("there is no PostgreSQL server here (Debian package postgresql)")
    folder = tmp_path / "postgres"
    folder.mkdir()
    as_user = {}
    if os.getuid() == 0:  # a server refuses to run as root
        shutil.chown(folder, "nobody")
        as_user = {"user": "nobody"}
        for parent in (tmp_path, *tmp_path.parents):
            if parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o111)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "cwd": folder, **as_user}
    subprocess.run([programs / "initdb", "-D", data, "-A", "trust", "-U", "sweeper"], check=True, **quiet)
    settings = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    server = subprocess.Popen([programs / "postgres", "-D", data, *settings], stderr=subprocess.DEVNULL, **quiet)
    try:
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: subprocess.run(ready, **quiet, check=False).returncode == 0, seconds=60)
        yield f"postgresql://sweeper@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


@pytest.mark.slow
def test_four_workers_share_a_study_in_a_postgresql_database(tmp_path: Path, postgres: str) -> None:
    sweep = Sweep(tmp_path)
    sweep.run("--workers=4", f"--storage={postgres}")
    sweep.assert_each_trained_once(6)
    assert not (sweep.workdir / "journal.log").exists()
    logs = [log.read_text() for log in (sweep.workdir / "logs").glob("*.log")]
    assert len(logs) == 4
    assert sum("trial" in log for log in logs) >= 2  # the others may have come when all were taken


@pytest.mark.slow
def test_the_print_launcher_prints_what_a_cluster_has_to_start(tmp_path: Path, capsys) -> None:
    sweep = Sweep(tmp_path)
    assert call("sweep", *sweep.given("--launcher=print", "--workers=2", rates=1)) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if " work " in line]
    assert len(commands) == 2
    subprocess.run(commands[0], shell=True, check=True, stdout=subprocess.DEVNULL, cwd="/")
    sweep.assert_each_trained_once(2)
    plan = json.loads((sweep.workdir / "sweep.json").read_text())
    assert plan["rule"].startswith("lowest bits per byte of validation text")


BROKEN = """
import sys
import jax
from lmarch.commands import sweep
from lmarch.sweeping import worker

def train(config, folder, go_on):
    raise jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE")

worker.train = train
sys.exit(sweep.main(["work", f"--workdir={sys.argv[1]}"]))
"""
# Two of twenty end in a loss that is not finite.
TWENTY = """
from lmarch.sweeping.space import grid

def get_space(arg):
    rates = [1e-3 * (1 + n / 100) for n in range(18)]
    return grid({"train.learning_rate": (*rates[:9], 1e30, *rates[9:], 2e30)})
"""


@pytest.mark.slow
def test_a_broken_worker_and_a_killed_one_and_two_wrong_trials_leave_eighteen_measured(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, train__steps=20, eval__lengths=(16, 32), eval__targets=8)
    sweep.space.write_text(TWENTY)
    assert call("sweep", *sweep.given("--launcher=print", suite="smoke")) == 0
    work = ("work", f"--workdir={sweep.workdir}")
    broken = subprocess.Popen(
        [sys.executable, "-c", BROKEN, sweep.workdir], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    killed, good = start("sweep", *work), start("sweep", *work)
    wait_until(lambda: len(sweep.running()) == 2 or sum(one.state == "finished" for one in sweep.trials()) > 2)
    killed.kill()
    out, _ = broken.communicate(timeout=280)
    assert broken.returncode == GAVE_UP
    assert "3 trials in a row failed through no fault of their own" in out
    status, out, err = finish(good)
    assert status == 0, out + err
    trials = sweep.trials()
    assert [one.state for one in trials].count("finished") == 18
    failed = [one for one in trials if one.state == "failed"]
    assert [one.number for one in failed] == [9, 19]
    assert all("loss" in one.record["reason"] and "step" in one.record["reason"] for one in failed)
    for one in trials:
        if one.state == "finished":
            assert [row["length"] for row in one.record["measured"]] == [16, 32]
            assert [m["step"] for m in read_metrics(one.folder) if "loss" in m] == list(range(1, 21))  # nothing twice
    assert len({one.folder for one in trials}) == 20
