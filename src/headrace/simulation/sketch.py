"""QuantileSketch: quantiles of any number of values, in bounded memory, within a stated error."""

from __future__ import annotations

import math

ERROR = 0.005
LEAST = 1e-9  # values below count as zero


class QuantileSketch:
    """Counts values in buckets whose bounds grow by a fixed ratio.

    A quantile is off by at most ``ERROR`` of the value that has the same rank; count, mean, least
    and greatest are exact. Values from nanoseconds to years fill fewer than 4,200 buckets. DDSketch
    (Masson, Rim and Lee, VLDB 2019, section 2.1), without its collapsing of small buckets.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least, self.greatest = math.inf, -math.inf
        self._scale = 1.0 / math.log((1 + ERROR) / (1 - ERROR))
        self._buckets: dict[int, int] = {}
        self._zeros = 0

    def add(self, value: float, times: int = 1) -> None:
        """Counts ``value`` (not negative) so many times."""
        self.count += times
        self.total += value * times
        if value < self.least:
            self.least = value
        if value > self.greatest:
            self.greatest = value
        if value < LEAST:
            self._zeros += times
            return
        bucket = math.ceil(math.log(value) * self._scale)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + times

    def merge(self, other: QuantileSketch) -> None:
        """Counts everything that ``other`` counted."""
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        self._zeros += other._zeros
        for bucket, times in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + times

    @property
    def mean(self) -> float:
        """0 without values."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Interpolated between the values at ranks around (count - 1) · share, as numpy does.

        Raises ValueError without values.
        """
        if not self.count:
            raise ValueError("a sketch without values has no quantiles")
        rank = share * (self.count - 1)
        low = math.floor(rank)
        below, above = self._at(low), self._at(min(low + 1, self.count - 1))
        return below + (rank - low) * (above - below)

    def _at(self, rank: int) -> float:
        """The value with ``rank`` others before it."""
        if rank == 0:
            return self.least
        if rank == self.count - 1:
            return self.greatest
        seen = self._zeros
        if rank < seen:
            return 0.0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if rank < seen:
                # The bucket's middle, in the sense that both its ends are equally far off.
                value = 2.0 * math.exp(bucket / self._scale) / (1 + (1 + ERROR) / (1 - ERROR))
                return min(max(value, self.least), self.greatest)
        return self.greatest
