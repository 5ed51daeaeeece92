"""SimulatedTally: what a simulation's requests add up to, as ``bench`` reports it."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Sequence

from headrace.simulation.served import Served
from headrace.simulation.sketch import QuantileSketch
from headrace.workloads.metrics import Distribution, Summary
from headrace.workloads.record import Record
from headrace.workloads.slo import NO_TARGETS, Slo

KEPT = 4096
STRETCHES = 64  # of the run, in which the requests inside are counted apart
T_95 = 2.1  # Student's t for 95 % and about twenty degrees of freedom


class SimulatedTally:
    """Takes requests as they end, in memory that does not grow with their number.

    Percentiles come from sketches. At most ``KEPT`` requests, evenly over the run, are kept as
    ``records``; ``thinned`` says of how many each is one. ``waits`` are seconds by cause, over all
    requests. Gaps between single tokens are not followed, so that there is no ``itl``.
    """

    def __init__(self, slo: Slo = NO_TARGETS) -> None:
        self.records: list[Record] = []
        self.thinned = 1
        self.waits: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.answered = self.good = self.requests = 0
        self.preemptions = 0
        self._slo = slo
        self._ttft, self._tpot, self._e2e = QuantileSketch(), QuantileSketch(), QuantileSketch()
        self._errors: Counter[str] = Counter()
        self._prompt = self._output = self._cached = 0
        self._start, self._end = float("inf"), float("-inf")
        self._stretches: list[int] = []  # requests inside, of each stretch that is full
        self._stretch = 1  # requests
        self._inside = 0  # of the stretch that is not

    def add(self, served: Served) -> bool:
        """Counts a request; whether it met the targets."""
        record = record_of(served)
        if self.requests % self.thinned == 0:
            self._keep(record)
        self.requests += 1
        self._start, self._end = min(self._start, record.due), max(self._end, record.end)
        self.preemptions += served.preemptions
        self.waits.update(served.waits)
        good = self._slo.met_by(record)
        self.good += good
        self._count(good)
        if not good:
            self.missed.update(self._misses(record))
        if record.error is not None:
            self._errors[record.error] += 1
            return good
        self.answered += 1
        self._prompt += record.prompt_tokens
        self._output += record.output_tokens
        self._cached += record.cached or 0
        self._e2e.add(record.e2e)
        if record.ttft is not None:
            self._ttft.add(record.ttft)
        if record.tpot is not None:
            self._tpot.add(record.tpot)
        return good

    def summary(self) -> Summary:
        """Raises ValueError when nothing was added."""
        if not self.requests:
            raise ValueError("no requests, no summary")
        duration = max(self._end - self._start, 1e-9)
        return Summary(
            requests=self.requests,
            answered=self.answered,
            errors=dict(sorted(self._errors.items())),
            duration=duration,
            prompt_tokens=self._prompt,
            output_tokens=self._output,
            cached_tokens=self._cached,
            ttft=_distribution(self._ttft),
            tpot=_distribution(self._tpot),
            itl=None,
            e2e=_distribution(self._e2e),
            lag=None,
            request_rate=self.answered / duration,
            output_rate=self._output / duration,
            total_rate=(self._prompt + self._output) / duration,
            goodput=self.good / duration if self._slo else None,
            attained=self.good / self.requests if self._slo else None,
        )

    @property
    def margin(self) -> float:
        """Half the width of the 95 % confidence interval of the share inside.

        By the method of batch means: requests that come together fare alike, stretches of many
        requests hardly depend on each other (Law and Kelton, "Simulation Modeling and Analysis",
        section 9.5.3). Where none misses, one in a third of as many might (the rule of three).
        1 where there are too few requests.
        """
        shares = [inside / self._stretch for inside in self._stretches]
        while len(shares) > STRETCHES // 2:
            shares = [(a + b) / 2 for a, b in zip(shares[::2], shares[1::2], strict=False)]
        if len(shares) < STRETCHES // 4:
            return 1.0
        return max(T_95 * statistics.stdev(shares) / math.sqrt(len(shares)), 3 / self.requests)

    def _count(self, good: bool) -> None:
        self._inside += good
        if self.requests % self._stretch:
            return
        self._stretches.append(self._inside)
        self._inside = 0
        if len(self._stretches) == STRETCHES:
            pairs = zip(self._stretches[::2], self._stretches[1::2], strict=True)
            self._stretches = [a + b for a, b in pairs]
            self._stretch *= 2

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        if len(self.records) > KEPT:
            self.records = self.records[::2]
            self.thinned *= 2

    def _misses(self, record: Record) -> list[str]:
        """Which targets a request missed; ``refused`` or the like where there was no answer."""
        if record.error is not None:
            return [record.error]
        values = {"ttft": record.ttft, "tpot": record.tpot, "e2e": record.e2e}
        bounds = self._slo.to_json()
        return [
            name
            for name, value in values.items()
            if value is not None and (bound := bounds[name]) is not None and value > bound
        ]


def record_of(served: Served) -> Record:
    """A simulated request as a load generator would have seen it."""
    arrival = served.arrival
    record = Record(
        arrival.at,
        arrival.at,
        served.end,
        _deliveries(served.first_token),
        served.prompt,
        served.output,
        served.cached,
    )
    if served.refused:
        return record.fail(served.code, served.refusal, served.end)
    if not served.completed:
        return record.fail("instance_failed", "the instance failed", served.end)
    return record


def _deliveries(first: float | None) -> Sequence[float]:
    return array("d", () if first is None else (first,))


def _distribution(sketch: QuantileSketch) -> Distribution | None:
    if not sketch.count:
        return None
    p50, p90, p99 = (sketch.quantile(share) for share in (0.5, 0.9, 0.99))
    return Distribution(sketch.count, sketch.mean, p50, p90, p99)
