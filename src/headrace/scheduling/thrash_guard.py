"""ThrashGuard: no more starts while preemption eats what steps compute."""

from __future__ import annotations

from collections import deque

from headrace.nouns.event import Event, Kind, Sink
from headrace.nouns.sequence import Sequence
from headrace.scheduling.limits import Limits
from headrace.scheduling.policy import MemoryView

WINDOW_STEPS = 16
HOLD_AT = 0.1
RESUME_AT = 0.05
ROOM = 4  # a quarter of the memory free is room enough, whatever was lost


class ThrashGuard:
    """Part of every scheduler, whatever its admission policy is.

    Watches the tokens lost to preemption (less what the cache gave back) against the tokens
    computed, over a window of the last ``WINDOW_STEPS`` full steps' worth of computed tokens. Past
    a share of ``HOLD_AT`` nobody starts until the share is ``RESUME_AT`` or less or a quarter of
    the memory is free. A sequence that has yielded before returns only when memory leaves
    everybody room to grow, and more so each time, or it would be the next to yield again.

    Never refuses when nothing runs; and while something runs, that comes to an end. So it delays
    a start but cannot forbid it. Thrashing is Denning's term (AFIPS '68): more competing for
    memory than memory can serve.
    """

    def __init__(self, memory: MemoryView, limits: Limits, emit: Sink) -> None:
        self.holding = False
        self._memory = memory
        self._emit = emit
        self._window = WINDOW_STEPS * limits.token_budget
        self._computed = 0  # tokens, ever
        self._losses: deque[tuple[int, int]] = deque()  # tokens computed by then, tokens lost
        self._lost = 0  # in the window

    def ran(self, tokens: int) -> None:
        """A step of so many tokens was planned. Several steps may be told as one sum."""
        self._computed += tokens

    def preempted(self, seq: Sequence, lost: int, now: float) -> None:
        """``seq`` yielded, with the state of ``lost`` tokens."""
        self._book(lost)
        if not self.holding and self._share() > HOLD_AT:
            self.holding = True
            self._tell(now, "nobody starts for now", self._of_window())

    def admitted(self, seq: Sequence, found: int, now: float) -> None:
        """``seq`` runs; what the cache still had of one that had yielded was not lost."""
        if seq.preemptions:
            self._book(-found)

    def refusal(self, seq: Sequence, running: int, now: float) -> str | None:
        """Why ``seq`` may not start beside ``running`` others, or None if it may."""
        memory = self._memory
        if self.holding:
            room = memory.available * ROOM >= memory.total
            if room or self._share() <= RESUME_AT:
                self.holding = False
                why = f"{memory.available} of {memory.total} blocks are free"
                self._tell(now, "sequences start again", why if room else self._of_window())
            elif running:
                return f"memory thrashes: {self._of_window()}"
        if seq.preemptions and running:
            spare = min(running << min(seq.preemptions - 1, 16), memory.total // ROOM)
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

    def _tell(self, now: float, what: str, why: str) -> None:
        data = {"holding": int(self.holding), "lost": self._lost, "window": self._window}
        self._emit(Event(Kind.THRASHING, now, reason=f"{what}: {why}", data=data))
