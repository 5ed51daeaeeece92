"""Histogram: counts of observations by size, cheap enough for every token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
TOKENS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)


class Histogram:
    """Observations x counted in the bucket of the least bound b with x <= b.

    Written by one thread and read by another without a lock: a reading may miss the observation
    that is being made, never a finished one.
    """

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def total(self) -> float:
        """The sum of all observations."""
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and cumulative counts, as Prometheus wants them; the last is +Inf."""
        names = [f"{bound:g}" for bound in self._bounds] + ["+Inf"]
        cumulated, count = [], 0
        for name, own in zip(names, list(self._counts), strict=True):
            count += own
            cumulated.append((name, float(count)))
        return cumulated
