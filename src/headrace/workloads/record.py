"""Record: what became of one request of a load, as its sender saw it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Record:
    """Times are seconds on one monotonic clock. docs/benchmarking.md defines each metric.

    ``due`` is when the request was to be sent, ``sent`` when it was; latencies count from ``due``,
    so that a sender that falls behind cannot hide it. ``deliveries`` are the times at which output
    arrived (one may carry several tokens); it is empty for an answer that came in one piece.
    ``end`` is when the last output, or the error, arrived. ``error`` is its kind, None if there
    was none. ``cached`` prompt tokens were not computed, None where the server does not tell.
    """

    due: float
    sent: float
    end: float = 0.0
    deliveries: Sequence[float] = field(default_factory=lambda: array("d"))
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached: int | None = None
    error: str | None = None
    detail: str = ""

    @property
    def lag(self) -> float:
        """How late the request was sent."""
        return self.sent - self.due

    @property
    def ttft(self) -> float | None:
        """Time to first token: due to first delivery."""
        return self.deliveries[0] - self.due if self.deliveries else None

    @property
    def e2e(self) -> float:
        """End-to-end latency: due to last output."""
        return self.end - self.due

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first: (e2e - ttft) / (tokens - 1)."""
        if not self.deliveries or self.output_tokens < 2:
            return None
        return (self.end - self.deliveries[0]) / (self.output_tokens - 1)

    @property
    def itl(self) -> list[float]:
        """Inter-token latencies: the gaps between deliveries."""
        times = self.deliveries
        return [times[i] - times[i - 1] for i in range(1, len(times))]

    def fail(self, kind: str, detail: str, now: float) -> Record:
        """The record with its error."""
        self.error, self.detail, self.end = kind, " ".join(detail.split())[:300], now
        return self
