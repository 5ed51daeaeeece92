"""LeastTokens: where the least work is outstanding."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.simulation.arrival import Arrival
from headrace.simulation.router import Load


class LeastTokens:
    """The instance whose outstanding tokens take it the least time; the lower index at a tie."""

    def __init__(self, seed: int = 0) -> None:
        pass

    def choose(self, arrival: Arrival, loads: Sequence[Load]) -> Load:
        return min(loads, key=lambda load: load.tokens / load.speed)

    def lost(self, index: int) -> None:
        """Nothing is remembered of instances."""
