"""Who starts workers, and starts those again that were killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmarch.sweeping import launchers
from lmarch.sweeping.launchers import Local


class Watching:
    """Looks at a study of which it is said beforehand what there is to see."""

    def __init__(self, seen: Iterator[int]) -> None:
        self._seen = seen

    def __call__(self) -> None:
        pass

    def progress(self) -> int:
        return next(self._seen)


@pytest.mark.parametrize(
    ("seen", "starts"),
    [
        ([0] * 9, 4),  # nothing comes of it: three restarts
        ([0, 0, 0, 0, 1, 1, 1, 1, 1], 7),  # a trial ended after three of them, and there are three more
    ],
)
def test_restarts_are_counted_since_the_last_progress(
    seen: list[int], starts: int, tmp_path: Path, monkeypatch
) -> None:
    command = ["sh", "-c", f"echo started >> {tmp_path / 'starts'}; kill -9 $$"]
    monkeypatch.setattr(launchers, "worker_command", lambda workdir, *flags: command)
    assert Local().launch(tmp_path, 1, Watching(iter(seen))) == 9
    assert len((tmp_path / "starts").read_text().splitlines()) == starts


def test_a_worker_that_gave_up_is_not_started_again(tmp_path: Path, monkeypatch) -> None:
    command = ["sh", "-c", f"echo started >> {tmp_path / 'starts'}; exit 75"]
    monkeypatch.setattr(launchers, "worker_command", lambda workdir, *flags: command)
    assert Local().launch(tmp_path, 1, Watching(iter([0] * 9))) == 75
    assert (tmp_path / "starts").read_text() == "started\n"
