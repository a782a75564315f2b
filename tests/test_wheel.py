"""The wheel, installed outside of any checkout, does what the checkout does, from a folder that is another repository."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parent.parent
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, Run]:
    """A folder that is a git repository of its own, and `lmarch` from a wheel in an environment inside it."""
    project = tmp_path_factory.mktemp("somebodys-project")
    wheels, site = project / "wheels", project / "environment" / "site-packages"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(ROOT)], check=True)
    (wheel,) = wheels.glob("lmarch-*.whl")
    subprocess.run([*pip, "install", "--no-deps", f"--target={site}", str(wheel)], check=True)
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(project)}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(site / "bin" / "lmarch"), *arguments]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)

    return project, run


@pytest.mark.slow
def test_every_verb_of_an_installed_wheel_works_in_another_repository(installed: tuple[Path, Run]) -> None:
    project, run = installed
    tiny.write_corpus(project / "text")
    small = [
        "--config.data.corpus=text:text/*.txt",
        *(f"--config.model.{name}" for name in ("dim=16", "num_heads=2", "num_layers=1", "trained_length=16")),
        *(f"--config.train.{name}" for name in ("steps=2", "warmup_steps=1", "eval_rows=8")),
        "--config.data.batch_rows=8",
    ]
    for arguments, printed in (
        (["train", "--config=causal_decoder:size=tiny", "--workdir=run", *small], ""),
        (["eval", "--workdir=run", "--suite=smoke", "--lengths=16,32", "--methods=rope"], "report:"),
        (["generate", "--workdir=run", "--prompt=a", "--max_new_tokens=4"], "a"),
        (
            ["sweep", "--config=causal_decoder:size=tiny", "--space=space.py", "--workdir=s", "--suite=none", *small],
            "2 finished",
        ),
        (["reproduce", "--list"], "1 FAIL"),
        (["show", "rope"], "largest distance"),
    ):
        if arguments[0] == "sweep":
            space = "from lmarch.sweeping.space import seeds\n\n\ndef get_space(arg=''):\n    return seeds(0, 1)\n"
            (project / "space.py").write_text(space)
        done = run(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        assert printed in done.stdout, arguments
    record = json.loads((project / "run" / "run.json").read_text())
    assert record["git_commit"] is None  # the commit of the repository around it is not lmarch's
    assert record["versions"]["lmarch"]
    assert record["command"].startswith("lmarch train --config=causal_decoder:size=tiny")
    refused = run("reproduce", "copy_by_position", "--final", "--publish")
    assert refused.returncode == 2
    assert "--publish needs a checkout of lmarch" in refused.stderr
