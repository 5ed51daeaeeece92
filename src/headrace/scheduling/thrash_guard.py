"""ThrashGuard: no more starts while preemption eats what steps compute."""

from __future__ import annotations

from collections import deque

from headrace.nouns.event import Event, Kind, Sink
from headrace.nouns.sequence import Sequence
from headrace.scheduling.limits import Limits
from headrace.scheduling.policy import MemoryView

WINDOW_STEPS = 64
HOLD_AT = 0.1
RESUME_AT = 0.05
SPARE = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the memory, by level


class ThrashGuard:
    """Part of every scheduler, whatever its admission policy is.

    Watches the tokens lost to preemption (less what the cache gave back) against the tokens
    computed, over a window of the last ``WINDOW_STEPS`` full steps' worth of computed tokens. While
    the share is above ``HOLD_AT``, sequences start only where a sixteenth of the memory stays free,
    and twice as much after each window in which that was not enough, up to a half; with a share of
    ``RESUME_AT`` or less it goes back as it came. A sequence that has yielded before returns only
    when memory leaves everybody room to grow, twice as much each time up to a sixteenth, or it
    would be the next to yield again.

    Never refuses when nothing runs; and while something runs, that comes to an end. So it delays
    a start but cannot forbid it. Thrashing is Denning's term (AFIPS '68): more competing for
    memory than memory can serve.
    """

    def __init__(self, memory: MemoryView, limits: Limits, emit: Sink) -> None:
        self.level = 0
        self._memory = memory
        self._emit = emit
        self._window = WINDOW_STEPS * limits.token_budget
        self._computed = 0  # tokens, ever
        self._settled = 0  # tokens computed when the level may change again
        self._losses: deque[tuple[int, int]] = deque()  # tokens computed by then, tokens lost
        self._lost = 0  # in the window

    def ran(self, tokens: int) -> None:
        """A step of so many tokens was planned. Several steps may be told as one sum."""
        self._computed += tokens

    def preempted(self, seq: Sequence, lost: int, now: float) -> None:
        """``seq`` yielded, with the state of ``lost`` tokens."""
        self._book(lost)
        if self._computed >= self._settled and self._share() > HOLD_AT:
            self._change(min(self.level + 1, len(SPARE) - 1), now)

    def admitted(self, seq: Sequence, found: int, now: float) -> None:
        """``seq`` runs; what the cache still had of one that had yielded was not lost."""
        if seq.preemptions:
            self._book(-found)

    def refusal(self, seq: Sequence, running: int, now: float) -> str | None:
        """Why ``seq`` may not start beside ``running`` others, or None if it may."""
        memory = self._memory
        if self.level and self._computed >= self._settled and self._share() <= RESUME_AT:
            self._change(self.level - 1, now)
        if not running:
            return None
        if self.level:
            need, spare = memory.cost(seq, len(seq.tokens)), int(memory.total * SPARE[self.level])
            if need + spare > memory.available:
                return (
                    f"memory thrashes, {self._of_window()}: it needs {need} blocks, {spare} are to"
                    f" stay free and {memory.available} are"
                )
        if seq.preemptions:
            spare = min(running << min(seq.preemptions - 1, 16), int(memory.total * SPARE[1]))
            need = memory.cost(seq, len(seq.tokens))
            if need + spare > memory.available:
                return (
                    f"it yielded {seq.preemptions} times: it needs {need} blocks and {spare}"
                    f" for others to grow, {memory.available} are free"
                )
        return None

    def _book(self, lost: int) -> None:
        self._losses.append((self._computed, lost))
        self._lost += lost

    def _share(self) -> float:
        """Tokens lost for each one computed in the window."""
        oldest = self._computed - self._window
        while self._losses and self._losses[0][0] < oldest:
            self._lost -= self._losses.popleft()[1]
        return self._lost / self._window

    def _of_window(self) -> str:
        return f"{self._lost} tokens lost to preemption of the last {self._window} computed"

    def _change(self, level: int, now: float) -> None:
        self._settled = self._computed + self._window
        if level != self.level:
            self.level = level
            what = f"starts leave {SPARE[level]:.1%} of the memory free"
            spare, lost, window = SPARE[level], self._lost, self._window
            data = {"level": level, "spare": spare, "lost": lost, "window": window}
            self._emit(Event(Kind.THRASHING, now, reason=f"{what}: {self._of_window()}", data=data))
