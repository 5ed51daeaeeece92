"""Bookings: what the front of a fleet knows of requests that have not ended."""

from __future__ import annotations

from headrace.simulation.arrival import Arrival
from headrace.simulation.router import Load
from headrace.simulation.served import Served


class Bookings:
    """Keeps the ``Load`` of each instance; ``open`` requests have not ended.

    A request is booked with its prompt and the mean output of the answers so far, or what it asks
    for if that is less: how long an answer will be is not known to a front.
    """

    def __init__(self) -> None:
        self.open = 0
        self._booked: dict[tuple[int, int], list[float]] = {}
        self._tokens = self._answers = 0

    def book(self, arrival: Arrival, load: Load) -> None:
        """``arrival`` was sent to the instance of ``load``."""
        mean = self._tokens / self._answers if self._answers else 0.0
        tokens = arrival.n * (arrival.prompt_tokens + min(mean, arrival.asked))
        self.open += 1
        load.requests += 1
        load.tokens += tokens
        self._booked.setdefault((load.index, id(arrival)), []).append(tokens)

    def release(self, served: Served, load: Load) -> None:
        """The request has left the instance of ``load``, answered or not."""
        key = (load.index, id(served.arrival))
        booked = self._booked[key]
        self.open -= 1
        load.requests -= 1
        load.tokens -= booked.pop()
        if not booked:
            del self._booked[key]
        if not load.requests:
            load.tokens = 0.0  # no rest of rounding stays behind
        if served.completed:
            self._tokens += served.output
            self._answers += served.arrival.n
