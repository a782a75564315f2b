"""A copy of the tree to make mistakes in, and tests run there."""

import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutations.mutation import ROOT, Mutation

LEFT_OUT = (".git", ".venv*", "runs", ".cache", "__pycache__", ".*_cache")
PASSED, FAILED = 0, 1  # exit statuses of pytest; others: it was stopped, or found nothing to run


@dataclasses.dataclass(frozen=True)
class Outcome:
    status: int | None  # of pytest; None: it took too long
    seconds: float
    output: str

    @property
    def failed(self) -> list[str]:
        """The tests that failed, in pytest's own words."""
        return re.findall(r"^(?:FAILED|ERROR) (.*)$", self.output, re.MULTILINE)


class Tree:
    """Runs one command at a time."""

    def __init__(self, folder: Path, compiled: Path) -> None:
        """Copies the tree that this file belongs to.

        Args:
          compiled: a folder for compiled programs, which trees can share: programs are found there by what they compute.

        Raises:
          RuntimeError: Python imports the package from somewhere else.
        """
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        self.folder, self._running = folder, None
        self._environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": str(compiled)}
        command = [sys.executable, "-c", "import lmarch; print(lmarch.__file__)"]
        found = subprocess.run(command, cwd=folder.parent, env=self._environment, capture_output=True, text=True)
        if Path(found.stdout.strip()) != folder / "lmarch" / "__init__.py":
            raise RuntimeError(f"a copy in {folder} imports lmarch from {found.stdout or found.stderr}")

    @contextlib.contextmanager
    def mutated(self, mutation: Mutation) -> Iterator[None]:
        source = mutation.source(self.folder)
        text = source.read_text(encoding="utf-8")
        source.write_text(mutation.mutated(text), encoding="utf-8")
        try:
            yield
        finally:
            source.write_text(text, encoding="utf-8")
            # Python tells files apart by size and second: what it compiled of the mutant might pass for the original's.
            Path(importlib.util.cache_from_source(str(source))).unlink(missing_ok=True)

    def run(self, tests: Iterable[str], limit: float, *flags: str, slow: bool = False) -> Outcome:
        """Runs tests, with `slow` slow ones too; ends what they started, after `limit` seconds at the latest."""
        marked = "" if slow else "not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *flags, *tests]
        began = time.monotonic()
        self._running = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = self._running.communicate(timeout=limit)
            status: int | None = self._running.returncode
        except subprocess.TimeoutExpired:
            output, status = "", None
        self.stop()
        return Outcome(status, time.monotonic() - began, output)

    def stop(self) -> None:
        """Ends what is running, and everything that it started."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
