"""Pace: how fast requests end, to predict how long a new one would wait."""

from __future__ import annotations

from collections import deque

from headrace.nouns.event import Event, Kind

WINDOW = 64
UNKNOWN = 1.0


class Pace:
    """An event sink that watches the last ``WINDOW`` ends.

    A queue of w sequences in front of an engine that ends r a second is served in w / r seconds
    (Little's law). With fewer than two ends seen the answer is ``UNKNOWN`` seconds.
    """

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=WINDOW)

    def __call__(self, event: Event) -> None:
        if event.kind is Kind.FINISHED:
            self.ended(event.time)

    def ended(self, now: float) -> None:
        """A sequence has ended."""
        self._ends.append(now)

    def predicted_wait(self, waiting: int, now: float) -> float:
        """Seconds until ``waiting`` sequences have been served."""
        if len(self._ends) < 2:
            return UNKNOWN
        span = max(now - self._ends[0], 1e-3)
        return waiting * span / len(self._ends)
