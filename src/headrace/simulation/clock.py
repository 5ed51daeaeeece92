"""VirtualClock: a clock that stands still until the simulation moves it."""

from __future__ import annotations


class VirtualClock:
    """Seconds since the start of a simulation, as a ``nouns.clock.Clock``."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time
