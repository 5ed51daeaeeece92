"""The load generator: sends jobs at their times, or as earlier ones end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.workloads.endpoint import Endpoint, clock
from headrace.workloads.job import Job
from headrace.workloads.record import Record

BURST = 256  # jobs sent in a row before answers are looked at
OnRecord = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """What generating the load cost this process: wall and processor seconds."""

    seconds: float
    processor_seconds: float

    @property
    def share(self) -> float:
        """Of one core: near 1 the generator itself is the limit."""
        return self.processor_seconds / max(self.seconds, 1e-9)


async def drive(
    endpoint: Endpoint, jobs: Iterable[Job], limit: int | None, on_record: OnRecord
) -> Effort:
    """Sends every job and reports each record as its answer ends.

    Jobs are taken one by one as their time comes, never all at once, so that they may be read
    from a file of any length. With a ``limit`` a job whose time has come waits until fewer than
    that many are in flight, and is due only then (a closed loop has no other time).
    """
    slots = asyncio.Semaphore(limit) if limit is not None else None
    start, processor = clock(), time.process_time()

    async def run(job: Job, due: float) -> None:
        try:
            on_record(await endpoint.send(job, due))
        finally:
            if slots is not None:
                slots.release()

    async with asyncio.TaskGroup() as group:
        for number, job in enumerate(jobs, 1):
            due = start + job.at
            early = due - clock()
            if early > 0 or number % BURST == 0:
                await asyncio.sleep(max(0.0, early))
            if slots is not None:
                await slots.acquire()
                due = max(due, clock())
            group.create_task(run(job, due))
    return Effort(clock() - start, time.process_time() - processor)
