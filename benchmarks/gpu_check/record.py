"""The record: a row a measurement, printed as it comes and written after every one, so that a kill loses nothing."""

import concurrent.futures
import datetime
import importlib.metadata
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from lmarch.durable import write_json
from lmarch.errors import UserError
from lmarch.provenance import machine_record

Figures = dict[str, Any]
RESULTS = Path(__file__).parents[1] / "results"


class SkippedError(Exception):
    """Why something is not measured."""


class Record:
    """The JSON file of one check, and the clock that it runs against."""

    def __init__(self, out: Path, seconds: float, workers: int | None = None, **facts: Any) -> None:
        """`seconds`: after so many no measurement is begun. `workers`: programs compiled side by side."""
        self.out, self.rows = out, list[dict[str, Any]]()
        self._seconds, self._began = seconds, time.perf_counter()
        self._facts = {**_machine(), **facts}
        self.compilers = concurrent.futures.ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
        self.compiling = list[concurrent.futures.Future[Any]]()
        out.parent.mkdir(parents=True, exist_ok=True)
        self._write(finished=False)

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        return max(0.0, self._seconds - self.elapsed)

    def measure(self, part: str, name: str, measure: Callable[[], Figures]) -> Figures:
        """Adds the row of `measure()`; whatever it raises becomes one. Returns its figures, empty if there are none."""
        began, figures, error = time.perf_counter(), Figures(), None
        try:
            if not self.left:
                raise SkippedError("time")
            figures = measure()
            status = "failed" if figures.get("ok") is False else "ok"
        except (SkippedError, UserError) as reason:
            status, error = "skipped", _one_line(str(reason))
        except Exception as raised:  # the row says what; the other rows are still wanted
            status, error = "failed", _one_line(f"{type(raised).__name__}: {raised}")
        row = {"part": part, "name": name, "status": status, "seconds": round(time.perf_counter() - began, 3)}
        self.rows.append({**row, "figures": figures} if error is None else {**row, "error": error})
        print(
            f"{self.elapsed:6.1f} s  {part:9} {name:44} {status:7} {_shown(figures) if error is None else error}",
            flush=True,
        )
        self._write(finished=False)
        return figures

    def finish(self) -> int:
        """Exit status: 0 unless nothing could run."""
        self.compilers.shutdown(wait=False, cancel_futures=True)
        self._write(finished=True)
        count = {status: sum(row["status"] == status for row in self.rows) for status in ("ok", "failed", "skipped")}
        print(
            ", ".join(f"{n} {status}" for status, n in count.items()) + f" in {self.elapsed:.0f} s: {self.out}",
            flush=True,
        )
        return 0 if count["ok"] else 1

    def _write(self, finished: bool) -> None:
        write_json(
            self.out, {**self._facts, "seconds": round(self.elapsed, 1), "finished": finished, "rows": self.rows}
        )


def default_out() -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    return RESULTS / f"gpu-check-{slug}-{datetime.datetime.now(datetime.UTC).date()}.json"


def _machine() -> Figures:
    made, device = machine_record(), jax.devices()[0]
    return {
        "date": made["started"],
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "platform": device.platform,
        "driver": _driver(),
        **{name: made[name] for name in ("device", "git_commit", "xla_flags")},
        "versions": {**made["versions"], **_plugins()},
        # Without --out: where the file was written first says nothing of what it holds.
        "command": " ".join(
            ["python -m benchmarks.gpu_check", *(a for a in sys.argv[1:] if not a.startswith("--out"))]
        ),
        # Where there is one, programs may come from a cache and seconds of compilation mean little.
        "compilation_cache": bool(os.environ.get("JAX_COMPILATION_CACHE_DIR")),
    }


def _plugins() -> dict[str, str]:
    """JAX's plugins and cuDNN, which decide how fast things are."""
    wanted = re.compile(r"jax-.*-(plugin|pjrt)|nvidia-cudnn.*|nvidia-cublas.*|tensorstore")
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return {name: version for name, version in sorted(found.items()) if wanted.fullmatch(name.lower())}


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.splitlines()[0].strip() if said.strip() else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


def _shown(figures: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return "  ".join(f"{name} {short(value)}" for name, value in figures.items() if not isinstance(value, Mapping))
