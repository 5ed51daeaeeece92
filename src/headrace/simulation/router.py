"""Router: which instance of a fleet gets a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.simulation.arrival import Arrival


@dataclass(slots=True)
class Load:
    """What the front of a fleet knows of one instance, without asking it.

    ``requests`` were sent there and have not ended; ``tokens`` are their prompts and the outputs
    that they are expected to have: the mean of the outputs seen so far, at most what was asked
    for. ``speed`` is the instance's, the fastest of the fleet having 1.
    """

    index: int
    speed: float = 1.0
    requests: int = 0
    tokens: float = 0.0

    @property
    def backlog(self) -> float:
        """Outstanding tokens in units of time of the fastest instance."""
        return self.tokens / self.speed


class Router(Protocol):
    """A deterministic function of what it is told; a seed stands for chance."""

    def choose(self, arrival: Arrival, loads: Sequence[Load]) -> Load:
        """One of ``loads`` (never empty): the instances that take requests, by their index."""
        ...

    def lost(self, index: int) -> None:
        """The instance failed: whatever it had in its memory is gone."""
        ...
