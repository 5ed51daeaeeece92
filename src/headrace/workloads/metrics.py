"""Metrics: what a load's records add up to. docs/benchmarking.md defines each in symbols."""

from __future__ import annotations

import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headrace.workloads.record import Record
from headrace.workloads.slo import NO_TARGETS, Slo

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and percentiles in seconds (linear interpolation between order statistics)."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """None where there are no values."""
        if not len(values):
            return None
        data = np.asarray(values)
        p50, p90, p99 = (float(p) for p in np.percentile(data, PERCENTILES))
        return cls(len(data), float(data.mean()), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Summary:
    """One run of a load. Durations in seconds, rates per second.

    ``errors`` counts failed requests by kind. ``goodput`` is None where no targets were stated,
    ``cached_tokens`` where the server never told. Latencies are of answered requests only.
    """

    requests: int
    answered: int
    errors: dict[str, int]
    duration: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None
    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    e2e: Distribution | None
    lag: Distribution | None
    request_rate: float
    output_rate: float
    total_rate: float
    goodput: float | None
    attained: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """Takes records one by one; keeps only the numbers a summary needs."""

    def __init__(self, slo: Slo = NO_TARGETS) -> None:
        self._slo = slo
        self._ttft, self._tpot, self._itl = array("d"), array("d"), array("d")
        self._e2e, self._lag = array("d"), array("d")
        self._errors: Counter[str] = Counter()
        self._requests = self._good = self._prompt = self._output = self._cached = 0
        self._cached_told = False
        self._start, self._end = float("inf"), float("-inf")

    def add(self, record: Record) -> None:
        self._requests += 1
        self._start = min(self._start, record.due)
        self._end = max(self._end, record.end)
        self._lag.append(record.lag)
        self._good += self._slo.met_by(record)
        if record.error is not None:
            self._errors[record.error] += 1
            return
        self._prompt += record.prompt_tokens
        self._output += record.output_tokens
        if record.cached is not None:
            self._cached, self._cached_told = self._cached + record.cached, True
        self._e2e.append(record.e2e)
        self._itl.extend(record.itl)
        for values, value in ((self._ttft, record.ttft), (self._tpot, record.tpot)):
            if value is not None:
                values.append(value)

    def summary(self) -> Summary:
        """Raises ValueError when nothing was added."""
        if not self._requests:
            raise ValueError("no records, no summary")
        duration = max(self._end - self._start, 1e-9)
        answered = len(self._e2e)
        return Summary(
            requests=self._requests,
            answered=answered,
            errors=dict(sorted(self._errors.items())),
            duration=duration,
            prompt_tokens=self._prompt,
            output_tokens=self._output,
            cached_tokens=self._cached if self._cached_told else None,
            ttft=Distribution.of(self._ttft),
            tpot=Distribution.of(self._tpot),
            itl=Distribution.of(self._itl),
            e2e=Distribution.of(self._e2e),
            lag=Distribution.of(self._lag),
            request_rate=answered / duration,
            output_rate=self._output / duration,
            total_rate=(self._prompt + self._output) / duration,
            goodput=self._good / duration if self._slo else None,
            attained=self._good / self._requests if self._slo else None,
        )


def summarise(records: Iterable[Record], slo: Slo = NO_TARGETS) -> Summary:
    """The summary of all records. Raises ValueError when there are none."""
    tally = Tally(slo)
    for record in records:
        tally.add(record)
    return tally.summary()


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Number by number the median of several summaries in JSON form.

    A number that only some runs have (such as an error's count) is 0 in the others where it is a
    count of errors, and left out of the median elsewhere.
    """
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run.get(name) for run in runs]
        if name == "errors":
            kinds = sorted({kind for value in values for kind in value or {}})
            merged[name] = {
                k: statistics.median((v or {}).get(k, 0) for v in values) for k in kinds
            }
            continue
        present = [value for value in values if value is not None]
        if not present:
            merged[name] = None
        elif isinstance(present[0], dict):
            merged[name] = medians(present)
        else:
            merged[name] = statistics.median(present)
    return merged
