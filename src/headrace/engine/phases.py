"""Phases: how long each part of a start took."""

from __future__ import annotations

import time
from collections.abc import Callable


class Phases:
    """Seconds by phase, one phase after the other from the making of this object on."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last = clock()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """What was done since the phase before is called ``name``."""
        now = self._clock()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def describe(self) -> str:
        """The sum and its parts in a line."""
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.2f} s ({parts})"
