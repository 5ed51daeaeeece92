"""Endpoint: what a load is sent to, a server or an engine in this process."""

from __future__ import annotations

import time
from typing import Protocol

from headrace.workloads.job import Job
from headrace.workloads.record import Record

clock = time.perf_counter


class Endpoint(Protocol):
    """``send`` waits for the whole answer and never raises for a fault of the request or the
    other side: that is the record's ``error``. Cancelling it ends the request.

    ``due`` is the time on ``clock`` at which the job was to be sent.
    """

    @property
    def name(self) -> str: ...

    async def send(self, job: Job, due: float) -> Record: ...
