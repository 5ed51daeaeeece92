"""Served: what became of one simulated request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.nouns.sequence import FinishReason
from headrace.simulation.arrival import Arrival


@dataclass(slots=True)
class Served:
    """Times are seconds on the virtual clock; docs/benchmarking.md defines the metrics.

    ``finish`` is how it ended; None where it was refused, and ``refusal`` says why, ``code`` by the
    name that a server's clients get. Of several
    sequences (``n``) ``admitted`` and ``first_token`` are the earliest, ``end`` is the latest, and
    counts and ``waits`` (seconds by cause) are sums. ``prompt`` and ``cached`` are tokens.
    """

    arrival: Arrival
    end: float
    admitted: float | None = None
    first_token: float | None = None
    prompt: int = 0
    output: int = 0
    cached: int = 0
    preemptions: int = 0
    finish: FinishReason | None = None
    refusal: str = ""
    code: str = ""
    waits: Mapping[str, float] = field(default_factory=dict)

    @property
    def at(self) -> float:
        return self.arrival.at

    @property
    def refused(self) -> bool:
        return self.finish is None

    @property
    def completed(self) -> bool:
        """It has all of its output."""
        return self.finish is FinishReason.STOP or self.finish is FinishReason.LENGTH

    @property
    def ttft(self) -> float | None:
        """Time to first token."""
        return None if self.first_token is None else self.first_token - self.arrival.at

    @property
    def e2e(self) -> float:
        """End-to-end latency."""
        return self.end - self.arrival.at

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first; of several sequences, by their mean length."""
        later = self.output / self.arrival.n - 1
        if self.first_token is None or later <= 0:
            return None
        return (self.end - self.first_token) / later
