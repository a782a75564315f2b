"""Where workers run: here, as a SLURM job array, or wherever the user starts the command that is printed."""

import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lmarch.errors import UserError
from lmarch.registry import Registry
from lmarch.shipped import checkout


class Watch(Protocol):
    """Who looks at a study while workers run."""

    def __call__(self) -> None:
        """Shows how far it is; to be called now and then."""
        ...

    def progress(self) -> Any:
        """What changes when a trial ends or saves a checkpoint."""
        ...


class Launcher(Protocol):
    def launch(self, workdir: Path, workers: int, watch: "Watch") -> int:
        """Starts `workers` workers on a study, which `watch` looks at. Returns the exit status."""
        ...

    def preview(self, workdir: Path, workers: int) -> str:
        """What it would start."""
        ...


LAUNCHERS: Registry[Launcher] = Registry("launcher")


def worker_command(workdir: Path, *flags: str) -> list[str]:
    """Of this very code, wherever it is started: `-P` keeps the folder it is started in out of what is imported."""
    top = checkout()
    program = [str(top / "sweep.py")] if top else ["-P", "-m", "lmarch", "sweep"]
    return [sys.executable, *program, "work", f"--workdir={workdir.resolve()}", *flags]


@LAUNCHERS.register("print")
@dataclasses.dataclass(frozen=True)
class Print:
    """Prints the command of a worker, to be started by whatever a cluster has."""

    def launch(self, workdir: Path, workers: int, watch: Watch) -> int:
        print(self.preview(workdir, workers))
        return 0

    def preview(self, workdir: Path, workers: int) -> str:
        return "\n".join([shlex.join(worker_command(workdir))] * workers)


@LAUNCHERS.register("local")
@dataclasses.dataclass(frozen=True)
class Local:
    """Processes of this machine, each with its share of the cores or with a GPU of its own.

    A worker that is killed is started again, so often without progress of the sweep between.
    """

    restarts: int = 3

    def launch(self, workdir: Path, workers: int, watch: Watch) -> int:
        logs = workdir / "logs"
        logs.mkdir(exist_ok=True)

        def start(number: int) -> subprocess.Popen:
            flags, environment = _share(number, workers)
            with open(logs / f"worker-{os.getpid()}-{number}.log", "a") as log:
                return subprocess.Popen(
                    worker_command(workdir, *flags),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **environment},
                    start_new_session=True,  # Ctrl-C reaches it through us, once
                )

        running = {number: start(number) for number in range(workers)}
        statuses, restarts, progress = dict.fromkeys(running, 0), self.restarts, watch.progress()
        asked: list[int] = []
        before = {
            s: signal.signal(s, lambda number, frame: asked.append(number)) for s in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            passed = 0
            while running:
                for number, process in list(running.items()):
                    if (status := process.poll()) is None:
                        continue
                    del running[number]
                    statuses[number] = status
                    if status >= 0 or asked:
                        continue
                    if (now := watch.progress()) != progress:
                        restarts, progress = self.restarts, now
                    if restarts:
                        restarts -= 1
                        running[number] = start(number)
                while passed < len(asked):
                    passed += 1
                    for process in running.values():
                        process.send_signal(signal.SIGTERM)
                watch()
                time.sleep(0.2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if asked:
            return 128 + asked[0]
        return next((abs(status) for status in statuses.values() if status), 0)

    def preview(self, workdir: Path, workers: int) -> str:
        lines = []
        for number in range(workers):
            flags, environment = _share(number, workers)
            shown = [f"{name}={value}" for name, value in environment.items()]
            lines.append(" ".join([*shown, shlex.join(worker_command(workdir, *flags))]))
        return "\n".join(lines)


def _share(number: int, workers: int) -> tuple[list[str], Mapping[str, str]]:
    """Flags and environment of one of several workers: a GPU each where there are some, else cores of its own."""
    gpus = _gpus()
    if gpus:
        return [], {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[number::workers] if workers <= len(cores) else [cores[number % len(cores)]]
    return [f"--cores={','.join(map(str, mine))}"], {}


def _gpus() -> list[str]:
    """The GPUs that this process may use, without starting any of them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


@LAUNCHERS.register("slurm")
@dataclasses.dataclass(frozen=True)
class Slurm:
    """A SLURM job array through submitit, one worker a task; a preempted or timed-out one is put into the queue again."""

    partition: str | None = None
    hours: float = 4.0
    cpus: int = 4
    gpus: int = 0
    memory_gb: int | None = None
    account: str | None = None
    cluster: str = "slurm"  # for submitit; `local` and `debug` try it out on this machine

    def launch(self, workdir: Path, workers: int, watch: Watch) -> int:
        executor = self._executor(workdir)
        with executor.batch():
            jobs = [executor.submit(Task(str(workdir.resolve()))) for _ in range(workers)]
        print("submitted: " + ", ".join(job.job_id for job in jobs))
        if self.cluster == "slurm":
            print(f"lmarch sweep status --workdir={workdir} tells how far it is")
            return 0
        while not all(job.done() for job in jobs):
            watch()
            time.sleep(0.2)
        return max(int(job.result()) for job in jobs)

    def preview(self, workdir: Path, workers: int) -> str:
        """The script that submitit hands to sbatch: of an array, or of a job."""
        from submitit.slurm.slurm import _make_sbatch_string

        names = {**self._shared, **self._of_slurm}
        given = {name.removeprefix("slurm_"): value for name, value in names.items() if name != "timeout_min"}
        return _make_sbatch_string(
            command=shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(workdir.resolve() / "slurm")]),
            folder=str(workdir.resolve() / "slurm"),
            map_count=workers if workers > 1 else None,
            time=int(self.hours * 60),
            **given,
        )

    @property
    def _shared(self) -> dict[str, Any]:
        return {"timeout_min": int(self.hours * 60)}

    @property
    def _of_slurm(self) -> dict[str, Any]:
        wanted = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_cpus_per_task": self.cpus,
            "slurm_gpus_per_node": self.gpus or None,
            "slurm_mem": f"{self.memory_gb}GB" if self.memory_gb else None,
            "slurm_signal_delay_s": 120,
            "slurm_job_name": "lmarch",
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def _executor(self, workdir: Path) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise UserError("--launcher=slurm needs submitit: pip install 'lmarch[cluster]'") from error
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError(
                "--launcher=slurm: there is no sbatch here; start it where jobs are submitted, or --launcher=print"
            )
        # However often it runs out of time; each time it comes nearer to its end.
        executor = submitit.AutoExecutor(workdir / "slurm", self.cluster, slurm_max_num_timeout=1_000_000)
        executor.update_parameters(**self._shared, **self._of_slurm)
        return executor


class Task:
    """What a job of the array runs: a worker in a process of its own, told to save when the job is about to end.

    SLURM sends its signals to every process of a job, SIGTERM and submitit's warning one after the other or one alone. The
    worker ignores both and is told once, by Ctrl-C's signal.
    """

    def __init__(self, workdir: str) -> None:
        self._workdir = workdir
        self._worker: subprocess.Popen | None = None
        self._told = False

    def __call__(self) -> int:
        import submitit

        ignored = (signal.SIGTERM, signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"])
        self._worker = subprocess.Popen(
            worker_command(Path(self._workdir)),
            preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored],
        )
        signal.signal(signal.SIGTERM, lambda number, frame: self._tell())
        _wait_for(self._worker)
        while self._told:  # a job that ends by itself would not come again: SLURM ends it, or its warning does
            signal.pause()
        return self._worker.wait()

    def checkpoint(self) -> object:
        """Asked by submitit before the end: the worker saves, and the job comes again."""
        import submitit

        self._tell()
        if self._worker is not None:
            _wait_for(self._worker)
        return submitit.helpers.DelayedSubmission(Task(self._workdir))

    def _tell(self) -> None:
        if self._worker is not None and self._worker.returncode is None and not self._told:
            self._told = True
            os.kill(self._worker.pid, signal.SIGINT)


def _wait_for(process: subprocess.Popen) -> None:
    """Also from a signal's handler that interrupted such a wait: Popen.wait holds a lock, and would wait for itself."""
    if process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
