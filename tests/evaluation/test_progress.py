"""How far an evaluation is: a bar on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from lmarch.evaluation import progress
from lmarch.evaluation.progress import Bar


def shown(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is shown of four steps, after 1, 6, 7 and 8 seconds."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    with Bar(console, "rows", 8) as bar:
        for step, seconds[0] in enumerate((1.0, 6.0, 7.0, 8.0)):
            bar.begin(f"under way: {step}", 2 * step)
            bar.reach(2)
            bar.line(f"line {step}", last=step == 3)
    return console.file.getvalue()


def test_elsewhere_a_line_comes_now_and_then_and_the_last_one_always(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(False, monkeypatch).split("\n") == ["  line 1", "  line 3", ""]


def test_a_terminal_has_a_bar_that_counts_to_the_end_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(True, monkeypatch)
    assert "under way: 3" in text
    assert "8/8" in text
    assert "line" not in text
