"""BatchProgress: how far a batch is, as a bar on a terminal and as lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

WINDOW = 30.0  # seconds over which rates are averaged
LINE_EVERY = 30.0  # seconds between lines where there is no terminal


class BatchProgress:
    """Counts lines and tokens. Rates are those of the last ``WINDOW`` seconds."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.total = total
        self.skipped = self.answered = self.faults = 0
        self.prompt_tokens = self.output_tokens = self.cached_tokens = 0
        self._console = console or Console(file=sys.stderr)
        self._began = self._said = time.monotonic()
        self._recent: deque[tuple[float, int, int]] = deque()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> BatchProgress:
        self._began = self._said = time.monotonic()
        self._recent.append((self._began, 0, 0))
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed:,}/{task.total:,} lines"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=self.total, note="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()

    @property
    def done(self) -> int:
        return self.skipped + self.answered + self.faults

    def skip(self) -> None:
        """A line that was answered before."""
        self.skipped += 1

    def answer(self, prompt: int, output: int, cached: int) -> None:
        """A line answered now, with its token counts."""
        self.answered += 1
        self.prompt_tokens += prompt
        self.output_tokens += output
        self.cached_tokens += cached
        self._tick()

    def fault(self, message: str) -> None:
        """A line kept apart; the first few are shown."""
        self.faults += 1
        if self.faults <= 5:
            self.say(message)
        elif self.faults == 6:
            self.say("further faults are only written to the errors' file")
        self._tick()

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        # a terminal wraps at its own width; a log gets one line
        self._console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """One line for the end."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        parts = [f"{self.answered:,} answered"]
        if self.skipped:
            parts.append(f"{self.skipped:,} were answered before")
        if self.faults:
            parts.append(f"{self.faults:,} kept apart")
        rate = f"{self.output_tokens / seconds:,.0f} output tokens/s"
        return (
            f"{', '.join(parts)}; {self.prompt_tokens:,} prompt tokens"
            f" ({self.cached_tokens:,} cached) and {self.output_tokens:,} output tokens"
            f" in {clock(seconds)} ({rate})"
        )

    def note(self) -> str:
        """Tokens per second and time left."""
        now = time.monotonic()
        recent = self._recent
        recent.append((now, self.answered + self.faults, self.output_tokens))
        while len(recent) > 2 and now - recent[1][0] >= WINDOW:
            recent.popleft()
        then, lines, tokens = recent[0]
        seconds = max(now - then, 1e-9)
        line_rate = (self.answered + self.faults - lines) / seconds
        left = clock((self.total - self.done) / line_rate) if line_rate > 0 else "?"
        return f"{(self.output_tokens - tokens) / seconds:,.0f} tok/s, {left} left"

    def _tick(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            if now - self._said >= 0.2:
                self._said = now
                self._show()
        elif now - self._said >= LINE_EVERY:
            self._said = now
            share = 100 * self.done / max(self.total, 1)
            self._console.print(
                f"{self.done:,}/{self.total:,} lines ({share:.1f} %), {self.note()}",
                markup=False,
                highlight=False,
            )

    def _show(self) -> None:
        assert self._bar is not None
        self._bar.update(self._task, completed=self.done, note=self.note())


def clock(seconds: float) -> str:
    """Seconds as 12s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
