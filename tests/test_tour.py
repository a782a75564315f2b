"""docs/tour.md runs as it stands, top to bottom."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import flags_for

ROOT = Path(__file__).parent.parent
TOUR = (ROOT / "docs" / "tour.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TOUR, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_tour_runs_top_to_bottom(tmp_path: Path) -> None:
    """In a process of its own, for it registers a method; with a shorter run, and in a workdir of the test's own."""
    environment = {**os.environ, "XLA_FLAGS": flags_for(), "PYTHONPATH": str(ROOT)}

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shorter = {"steps=300": "steps=6", "--suite=smoke": "--suite=smoke --parts=paired", "runs/tour": f"{tmp_path}/tour"}

    def adapted(text: str) -> str:
        for old, new in shorter.items():
            text = text.replace(old, new)
        return text

    for line in adapted("".join(blocks("bash"))).splitlines():
        extra = ["--config.train.warmup_steps=1"] if line.startswith("lmarch train ") else []
        run([sys.executable, "-m", *shlex.split(line), *extra])
    printed = run([sys.executable, "-c", adapted("\n".join(blocks("python")))])
    assert "the farthest distance rerope shows the model: 64" in printed
    assert "rerope:frequencies=hard_cut,frequencies.factor=1" in printed
    assert printed.count("hard_cut") >= 3
