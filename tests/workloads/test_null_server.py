"""The null server, driven by the load generator it is there to measure."""

from __future__ import annotations

import pytest

from headrace.workloads.ceiling import null_server
from headrace.workloads.generator import drive
from headrace.workloads.http_endpoint import HttpEndpoint
from headrace.workloads.job import Job
from headrace.workloads.metrics import summarise
from headrace.workloads.record import Record


@pytest.mark.parametrize("stream", [True, False])
async def test_everything_asked_for_is_answered(stream: bool) -> None:
    records: list[Record] = []
    jobs = [Job(0.0, tuple(range(300)), 1 + i % 7) for i in range(150)]
    with null_server() as url:
        async with HttpEndpoint(url, stream=stream) as endpoint:
            await endpoint.warm_up(jobs[0])
            assert endpoint.name.startswith("null at ")
            await drive(endpoint, jobs, 20, records.append)
    found = summarise(records)
    assert found.errors == {}
    assert found.prompt_tokens == 300 * 150
    assert found.output_tokens == sum(job.output_tokens for job in jobs)
    if stream:
        assert all(len(record.deliveries) == record.output_tokens for record in records)
