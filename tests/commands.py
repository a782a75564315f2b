"""The commands as tests call them: in this process, or in one of their own where that is what is tested."""

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def call(command: str, *arguments: str) -> int:
    """What a command returns; what it refuses arrives as the UserError that its process would print in one line."""
    status: int = importlib.import_module(f"lmarch.commands.{command}").main(list(arguments))
    return status


def flags_for(devices: int = 1) -> str:
    """What XLA is told in a process of its own: as in the tests', to compile quickly."""
    quick = [word for word in os.environ["XLA_FLAGS"].split() if "device_count" not in word]
    return " ".join([*quick, f"--xla_force_host_platform_device_count={devices}"])


def start(
    command: str, *arguments: str, devices: int = 1, environment: Mapping[str, str] = os.environ
) -> subprocess.Popen:
    """A process of its own, with pipes for what it says; its compiled programs are those of the tests."""
    return subprocess.Popen(
        [sys.executable, f"{command}.py", *arguments],
        cwd=ROOT,
        env={**environment, "XLA_FLAGS": flags_for(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, seconds: float = 280) -> Any:
    """(exit status, standard output, standard error) of a started process."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err
