"""How far a batch is: on a terminal, elsewhere, and in numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from headrace.cli import batch_progress
from headrace.cli.batch_progress import BatchProgress, clock


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(batch_progress, "time", clock)
    return clock


def progress_on(total: int, terminal: bool) -> tuple[BatchProgress, io.StringIO]:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100, color_system=None)
    return BatchProgress(total, console), shown


def test_rate_and_time_left(time: Clock) -> None:
    progress, _ = progress_on(1000, terminal=False)
    with progress:
        for _ in range(100):
            progress.skip()
        for _ in range(10):
            time.now += 1.0
            progress.answer(prompt=5, output=20, cached=2)
        assert progress.note() == "20 tok/s, 14m50s left"
        assert progress.done == 110
        for _ in range(100):
            time.now += 0.1
            progress.answer(prompt=5, output=20, cached=2)
            progress.note()
        assert progress.note().startswith("110 tok/s")
        time.now += 20.0  # the first ten seconds leave the window
        assert progress.note().startswith("67 tok/s")


def test_nothing_done_yet_has_no_time_left(time: Clock) -> None:
    progress, _ = progress_on(10, terminal=False)
    with progress:
        time.now += 5
        assert progress.note() == "0 tok/s, ? left"


def test_summary(time: Clock) -> None:
    progress, _ = progress_on(4, terminal=False)
    with progress:
        progress.skip()
        time.now += 2.0
        progress.answer(prompt=1000, output=50, cached=10)
        progress.fault("line 3: no")
    assert progress.summary() == (
        "1 answered, 1 were answered before, 1 kept apart; 1,000 prompt tokens (10 cached)"
        " and 50 output tokens in 2s (25 output tokens/s)"
    )


def test_a_terminal_gets_a_bar(time: Clock) -> None:
    progress, shown = progress_on(2, terminal=True)
    with progress:
        time.now += 1.0
        progress.answer(1, 7, 0)
        progress.fault("line 2: [bold]no")
    assert "2/2 lines" in shown.getvalue()
    assert "tok/s" in shown.getvalue()
    assert "line 2: [bold]no" in shown.getvalue()


def test_elsewhere_there_is_a_line_now_and_then(time: Clock) -> None:
    progress, shown = progress_on(200, terminal=False)
    with progress:
        for _ in range(100):
            time.now += 1.0
            progress.answer(1, 7, 0)
    lines = shown.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "30/200 lines (15.0 %), 7 tok/s, 2m50s left"


def test_a_long_fault_is_one_line_of_a_log(time: Clock) -> None:
    progress, shown = progress_on(10, terminal=False)
    with progress:
        progress.fault("line 7: " + "a word " * 40)
    assert len(shown.getvalue().splitlines()) == 1


def test_only_the_first_faults_are_shown(time: Clock) -> None:
    progress, shown = progress_on(100, terminal=False)
    with progress:
        for number in range(50):
            progress.fault(f"line {number}: no")
    assert len(shown.getvalue().splitlines()) == 6
    assert progress.faults == 50


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0s"), (59.4, "59s"), (185, "3m05s"), (7620, "2h07m")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
