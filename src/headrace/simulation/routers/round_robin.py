"""RoundRobin: everybody in turn."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.simulation.arrival import Arrival
from headrace.simulation.router import Load


class RoundRobin:
    """The next instance after the last one chosen, whatever it has to do."""

    def __init__(self, seed: int = 0) -> None:
        self._last = -1

    def choose(self, arrival: Arrival, loads: Sequence[Load]) -> Load:
        chosen = next((load for load in loads if load.index > self._last), loads[0])
        self._last = chosen.index
        return chosen

    def lost(self, index: int) -> None:
        """Nothing is remembered of instances."""
