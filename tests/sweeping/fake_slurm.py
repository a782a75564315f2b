"""As much of SLURM as submitit talks to: it takes a script, runs its jobs and warns them of the end."""

import os
import signal
import subprocess
import time
from pathlib import Path

PROGRAMS = {
    "sbatch": 'cp "$1" "{folder}/script.sh" && echo "Submitted batch job 7"',
    "srun": 'while [[ "$1" == --* ]]; do [[ "$1" == --unbuffered ]] || shift; shift; done; exec "$@"',
    "scontrol": 'echo "$@" >> "{folder}/asked"',
}


class FakeSlurm:
    def __init__(self, folder: Path) -> None:
        self._folder, programs = folder, folder / "bin"
        programs.mkdir(parents=True)
        for name, body in PROGRAMS.items():
            (programs / name).write_text("#!/bin/bash\n" + body.replace("{folder}", str(folder)) + "\n")
            (programs / name).chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    @property
    def script(self) -> str:
        """What was submitted."""
        return (self._folder / "script.sh").read_text()

    @property
    def asked(self) -> list[str]:
        """What scontrol was asked."""
        file = self._folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def start(self, task: int) -> subprocess.Popen:
        """Runs a task of the submitted array."""
        names = {"SLURM_JOB_ID": str(8 + task), "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}
        return subprocess.Popen(
            ["bash", self._folder / "script.sh"], env={**self.environment, **names}, start_new_session=True
        )

    @staticmethod
    def preempt(job: subprocess.Popen) -> None:
        """SIGTERM, then the warning that was asked for, to all processes of the job's steps; its shell gets none."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            for process in Path("/proc").glob("[0-9]*"):
                pid = int(process.name)
                try:
                    if pid != job.pid and os.getsid(pid) == job.pid:
                        os.kill(pid, number)
                except ProcessLookupError:
                    continue
            time.sleep(1)
