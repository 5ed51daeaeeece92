"""The load generator: who is sent when, how many at a time, and what becomes of faults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from headrace.workloads.endpoint import clock
from headrace.workloads.generator import drive
from headrace.workloads.job import Job
from headrace.workloads.record import Record
from tests.api.live_server import until


class Counting:
    """An endpoint that answers after ``seconds`` and counts what is open."""

    name = "counting"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.open = self.most = self.cancelled = 0
        self.sent: list[Job] = []

    async def send(self, job: Job, due: float) -> Record:
        record = Record(due, clock())
        self.sent.append(job)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.open -= 1
        record.end = clock()
        return record


def jobs(times: list[float]) -> list[Job]:
    return [Job(at, (i,), 1) for i, at in enumerate(times)]


async def test_all_at_once() -> None:
    endpoint, records = Counting(0.01), list[Record]()
    load = jobs([0.0] * 50)
    effort = await drive(endpoint, load, None, records.append)
    assert endpoint.sent == load
    assert endpoint.most == 50
    assert len({record.due for record in records}) == 1
    assert effort.seconds >= 0.01
    assert effort.processor_seconds > 0


@pytest.mark.parametrize("limit", [1, 3])
async def test_fixed_concurrency_is_reached_and_never_exceeded(limit: int) -> None:
    endpoint, records = Counting(0.001), list[Record]()
    await drive(endpoint, jobs([0.0] * 40), limit, records.append)
    assert endpoint.most == limit
    assert len(records) == 40
    # In a closed loop a request is due when its turn comes, so waiting for it is no latency.
    assert all(record.e2e < effort_bound(records) for record in records)


def effort_bound(records: list[Record]) -> float:
    return max(r.end for r in records) - min(r.due for r in records)


async def test_open_loop_keeps_its_times_whatever_is_open() -> None:
    endpoint, records = Counting(0.05), list[Record]()
    await drive(endpoint, jobs([0.0, 0.01, 0.02, 0.03]), None, records.append)
    dues = sorted(record.due for record in records)
    assert [due - dues[0] for due in dues] == pytest.approx([0.0, 0.01, 0.02, 0.03])
    assert all(record.lag >= 0 for record in records)


async def test_jobs_are_taken_as_their_time_comes() -> None:
    taken: list[int] = []

    def endless() -> Iterator[Job]:
        for i in range(1_000_000):
            taken.append(i)
            yield Job(i * 3600.0, (i,), 1)

    task = asyncio.create_task(drive(Counting(), endless(), None, lambda record: None))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert taken == [0, 1]


async def test_no_jobs() -> None:
    await drive(Counting(), [], 3, lambda record: pytest.fail("nothing was sent"))


async def test_a_fault_of_the_listener_ends_everything() -> None:
    endpoint = Counting(0.01)

    def broken(record: Record) -> None:
        endpoint.seconds = 3600.0
        raise RuntimeError("broken")

    with pytest.raises(ExceptionGroup) as caught:
        await drive(endpoint, [*jobs([0.0]), *jobs([0.02] * 3)], None, broken)
    assert caught.group_contains(RuntimeError, match="broken")
    assert endpoint.open == 0


async def test_cancelling_cancels_what_is_open() -> None:
    endpoint = Counting(3600.0)
    task = asyncio.create_task(drive(endpoint, jobs([0.0] * 5), None, lambda record: None))
    await asyncio.to_thread(until, lambda: endpoint.open == 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (endpoint.open, endpoint.cancelled) == (0, 5)
