"""Records and reports with known times."""

from __future__ import annotations

from typing import Any

from headrace.workloads.generator import Effort
from headrace.workloads.metrics import summarise
from headrace.workloads.record import Record
from headrace.workloads.report import point_json, report_json, run_json
from headrace.workloads.slo import Slo

SLO = Slo(ttft=1.0, tpot=0.125)


def record(due: float, *deliveries: float, tokens: int | None = None, **other: Any) -> Record:
    """A record whose output arrived at ``deliveries``, a token each unless ``tokens`` says."""
    return Record(
        due=due,
        sent=other.pop("sent", due),
        end=deliveries[-1],
        deliveries=deliveries,
        prompt_tokens=other.pop("prompt_tokens", 10),
        output_tokens=len(deliveries) if tokens is None else tokens,
        **other,
    )


def failed(due: float, end: float, kind: str) -> Record:
    return Record(due=due, sent=due).fail(kind, "it went wrong", end)


RECORDS = [
    record(0.0, 0.5, 0.6, 0.7, 0.8, cached=4),
    record(1.0, 2.5, 2.5, 2.9, sent=1.25, cached=0),  # misses the TTFT target
    record(2.0, 2.1, 4.1),  # misses the TPOT target
    record(3.0, 3.2, tokens=1),
    failed(3.0, 10.0, "timeout"),
]


def report(rates: tuple[float | None, ...] = (None,), runs: int = 1, slo: Slo = SLO) -> Any:
    """A whole report of the records above, with as many points and runs as asked for."""
    run = run_json(summarise(RECORDS, slo), Effort(10.0, 1.0), RECORDS)
    points = [point_json(f"load {i}", rate, [run] * runs) for i, rate in enumerate(rates)]
    return report_json({"endpoint": "a <b> & c"}, slo, points, ["a note"])
