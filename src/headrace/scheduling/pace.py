"""Pace: how fast requests end, to predict how long a new one would wait."""

from __future__ import annotations

from collections import deque

WINDOW = 64


class Pace:
    """Watches the last ``WINDOW`` ends.

    A queue of w sequences in front of an engine that ends r a second is served in w / r seconds
    (Little's law).
    """

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=WINDOW)

    def ended(self, now: float) -> None:
        """A sequence has ended."""
        self._ends.append(now)

    def predicted_wait(self, waiting: int, now: float) -> float | None:
        """Seconds until ``waiting`` sequences have been served; None with fewer than two ends."""
        if not waiting:
            return 0.0
        if len(self._ends) < 2:
            return None
        span = max(now - self._ends[0], 1e-3)
        return waiting * span / len(self._ends)
