"""Metrics out of the loop: a JSONL file, TensorBoard, and one line on the terminal."""

import json
import math
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lmarch.durable import flush_to_disk, parsed_lines, read_json_lines, write_text

# Peak dense bfloat16 FLOP/s of one device, from the vendors' data sheets; MFU is left out for any other device.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops() -> float | None:
    """Of all devices together, if their kind is known."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in PEAK_FLOPS.items() if kind.startswith(name)]
    return known[0] * jax.device_count() if known else None


class MetricsWriter:
    """Appends to `metrics.jsonl` and TensorBoard. Records past `resume_step` are of a run that was cut off: they go."""

    def __init__(self, workdir: Path, resume_step: int) -> None:
        file = workdir / "metrics.jsonl"
        if file.exists():
            # Of a damaged line it cannot be told what step it is of: it stays.
            kept = [line for line, entry in parsed_lines(file) if entry is None or entry.get("step", 0) <= resume_step]
            write_text(file, "".join(kept))
        self._file = file.open("a")
        # Imported by a run alone: it brings in PyTorch where that is installed.
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def keep(self) -> None:
        """Return when what was written is on the disk: a checkpoint never has steps that the file has lost."""
        flush_to_disk(self._file)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The records of a run; a last line that was cut off by a kill is left out, a damaged one with a warning."""
    return read_json_lines(workdir / "metrics.jsonl")


class Throughput:
    """Tokens per second, waiting for data and MFU since the last reading."""

    def __init__(self, flops_per_token: float) -> None:
        self._flops, self._peak = flops_per_token, peak_flops()
        self.restart()

    def restart(self) -> None:
        self._since, self._tokens, self._waited = time.perf_counter(), 0, 0.0

    def add(self, tokens: int, waited: float) -> None:
        self._tokens += tokens
        self._waited += waited

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._since
        rate = self._tokens / seconds
        values = {"tokens_per_second": rate, "data_wait_seconds": self._waited}
        if self._peak:
            values["mfu"] = rate * self._flops / self._peak
        self.restart()
        return values


class Display:
    """A progress bar on a terminal; elsewhere a line now and then."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, total: int, start: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._total, self._last = total, -math.inf  # the first loss is shown at once
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        timing = (TimeElapsedColumn(), TextColumn("elapsed, ETA"), TimeRemainingColumn(elapsed_when_finished=False))
        self._progress = Progress(*columns, *timing, console=self.console, disable=not self.console.is_terminal)
        self._task = self._progress.add_task("training", total=total, completed=start, note="compiling")
        self._began, self._start = time.monotonic(), start
        self._progress.start()

    def say(self, text: str) -> None:
        self.console.print(text)

    def advance(self, step: int, loss: float, bits: float, rate: float) -> None:
        note = f"loss {loss:.3f}  {bits:.3f} bits/byte  {rate:,.0f} tokens/s"
        self._progress.update(self._task, completed=step, note=note)
        now = time.monotonic()
        if self._progress.disable and (now - self._last > self.SECONDS_BETWEEN_LINES or step == self._total):
            self._last = now
            left = (now - self._began) / max(1, step - self._start) * (self._total - step)
            self.say(f"step {step:>6}/{self._total}  {note}  ETA {math.ceil(left)} s")

    def close(self) -> None:
        self._progress.stop()
