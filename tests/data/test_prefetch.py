"""Things made ahead, by a thread or by processes: in order, with their errors, and with nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import jax
import numpy as np
import pytest
import tiny

from lmarch.data.loader import Loader
from lmarch.data.packing import pack
from lmarch.data.plan import make_plan
from lmarch.data.prefetch import prefetched
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.training.loop import train
from lmarch.training.metrics import read_metrics

BYTES = load_tokenizer("bytes")


def working() -> list:
    """Threads and processes that make things ahead."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("grain")]
    return threads + multiprocessing.active_children()


def soon_none_work() -> bool:
    """The thread of a pool that was told to end may take a moment."""
    ends = time.monotonic() + 10
    while working() and time.monotonic() < ends:
        time.sleep(0.01)
    return not working()


def test_things_are_made_ahead_but_no_further_than_asked() -> None:
    made, seventh = [], threading.Event()

    def make(n: int) -> int:
        made.append(n)
        if n == 6:
            seventh.set()
        return n

    things = prefetched(make, start=2, ahead=4)
    assert next(things) == 2
    assert seventh.wait(timeout=10)
    things.close()
    assert made == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_is_raised_in_its_turn_and_nothing_goes_on_working(processes: int) -> None:
    def make(n: int) -> int:
        if n == 7:
            raise UserError("the disk is gone")
        return n

    things = prefetched(make, start=2, ahead=4, processes=processes)
    assert [next(things) for _ in range(5)] == [2, 3, 4, 5, 6]  # in order, whoever made them
    with pytest.raises(UserError, match="the disk is gone"):
        next(things)
    assert soon_none_work()


@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_closing_ends_the_iteration_and_who_works_for_it(processes: int) -> None:
    things = prefetched(lambda n: n, start=0, ahead=4, processes=processes)
    next(things)
    assert working()
    things.close()
    things.close()
    assert soon_none_work()
    with pytest.raises(StopIteration):
        next(things)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["span_corruption", "prefix_lm"])
def test_batches_are_bitwise_the_same_for_any_number_of_processes(objective: str, tmp_path: Path) -> None:
    """From rows that are mapped into memory, with problems among them, begun anywhere."""
    changes = {"data__tasks": ({"task": "copy", "share": 0.3},), "model__architecture": "encoder_decoder"}
    plan = make_plan(tiny.config(tmp_path, data__objective=objective, **changes))
    rows = pack(plan.config.data, "train", plan.text_length, BYTES, plan.budget)
    loader = Loader(rows, 8, 0, plan.feed(BYTES))
    for processes, start in ((0, 0), (1, 0), (2, 0), (2, 5)):
        batches = loader.iterate(start, prefetch=3, processes=processes)
        for n in range(start, start + 9):
            jax.tree.map(np.testing.assert_array_equal, next(batches), loader.batch(n))
        batches.close()
    assert soon_none_work()


def test_rows_are_sent_by_the_names_of_their_files(own_text) -> None:
    rows = pack(own_text, "train", 16, BYTES)
    sent = cloudpickle.dumps(rows)
    assert rows.streams[0].shards[0].tokens.tobytes() not in sent
    again = cloudpickle.loads(sent)
    np.testing.assert_array_equal(again.tokens[:], rows.tokens[:])
    np.testing.assert_array_equal(again.documents[:], rows.documents[:])
    assert (again.fingerprint, again.num_tokens) == (rows.fingerprint, rows.num_tokens)


@pytest.mark.slow
def test_a_run_that_is_fed_by_processes_is_the_run_that_is_fed_by_a_thread(tmp_path: Path) -> None:
    losses = []
    for processes in (0, 2):
        config = tiny.config(tmp_path, data__feeding_processes=processes, model__num_layers=1)
        train(config, tmp_path / f"run{processes}")
        losses.append([row["loss"] for row in read_metrics(tmp_path / f"run{processes}") if "loss" in row])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)  # sums of XLA may differ in the last bit between runs
    assert len(losses[0]) == 8
    assert soon_none_work()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_process_outlives_a_run_that_is_stopped(number: int, status: int, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group, workers too; who is killed can close nothing."""
    config = tiny.config_file(tmp_path, data__feeding_processes=2, train__steps=100_000)
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    run = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True, stderr=subprocess.PIPE)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while run.poll() is None and not (metrics.exists() and '"loss"' in metrics.read_text()):
        time.sleep(0.1)
    assert len(children(run.pid)) >= 2
    if number == signal.SIGINT:
        os.killpg(run.pid, number)
    else:
        run.send_signal(number)
    assert run.wait(timeout=60) == status
    ends = time.monotonic() + 20
    while (left := in_session(run.pid)) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not left
    assert b"Traceback" not in run.stderr.read()


def _processes() -> list[tuple[int, int, int]]:
    """Process, parent and session of all that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, session = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:  # it has ended
            continue
        if state != "Z":
            found.append((int(folder.name), int(parent), int(session)))
    return found


def children(process: int) -> list[int]:
    return [child for child, parent, _ in _processes() if parent == process]


def in_session(session: int) -> list[int]:
    return [child for child, _, own in _processes() if own == session]
