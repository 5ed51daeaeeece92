"""TwoChoices: the better of two instances drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

from headrace.simulation.arrival import Arrival
from headrace.simulation.router import Load


class TwoChoices:
    """Of two different instances, drawn evenly, the one with fewer outstanding tokens.

    Nearly as even as looking at all of them, without their herding (Mitzenmacher, "The Power of
    Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001, section 1).
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(f"two-choices {seed}")

    def choose(self, arrival: Arrival, loads: Sequence[Load]) -> Load:
        if len(loads) == 1:
            return loads[0]
        first = self._random.randrange(len(loads))
        second = self._random.randrange(len(loads) - 1)
        one, other = sorted((first, second + (second >= first)))
        return loads[other] if loads[other].backlog < loads[one].backlog else loads[one]

    def lost(self, index: int) -> None:
        """Nothing is remembered of instances."""
