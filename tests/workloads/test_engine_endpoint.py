"""The in-process endpoint on the real engine service with a toy model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.engine.service import EngineService
from headrace.workloads.endpoint import clock
from headrace.workloads.engine_endpoint import EngineEndpoint
from headrace.workloads.generator import drive
from headrace.workloads.job import Job
from headrace.workloads.record import Record
from tests.api.live_server import until
from tests.api.toy_engine import FAULT, SLOW, toy_service

PROMPT = tuple(range(40, 72))


@pytest.fixture
def service() -> Iterator[EngineService]:
    running = toy_service(max_queue=80)
    running.start()
    running.wait_ready()
    yield running
    running.close()


def endpoint(service: EngineService, tenant: str = "t") -> EngineEndpoint:
    return EngineEndpoint(service, "toy", lambda text: list(text.encode()), tenant)


async def send(service: EngineService, *args: Any, tenant: str = "t") -> Record:
    return await endpoint(service, tenant).send(Job(0.0, *args), clock())


async def test_a_request(service: EngineService) -> None:
    record = await send(service, PROMPT, 40)
    assert record.error is None
    assert (record.prompt_tokens, record.output_tokens, record.cached) == (32, 40, 0)
    assert len(record.deliveries) == 40  # the toy's end token is ignored
    assert record.sent <= record.deliveries[0]
    assert record.end == record.deliveries[-1]
    assert list(record.deliveries) == sorted(record.deliveries)


async def test_a_text(service: EngineService) -> None:
    record = await send(service, "four", 3)
    assert (record.prompt_tokens, record.output_tokens) == (4, 3)


async def test_a_new_tenant_has_a_fresh_cache(service: EngineService) -> None:
    await send(service, PROMPT, 1)
    assert (await send(service, PROMPT, 1)).cached == 16
    assert (await send(service, PROMPT, 1, tenant="other")).cached == 0


async def test_many_at_once(service: EngineService) -> None:
    records: list[Record] = []
    await drive(endpoint(service), [Job(0.0, PROMPT, 9)] * 64, None, records.append)
    assert [r.output_tokens for r in records] == [9] * 64
    assert {r.error for r in records} == {None}


async def test_faults_are_errors_of_their_record(service: EngineService) -> None:
    assert (await send(service, (FAULT,), 3)).error == "engine_error"
    too_long = await send(service, PROMPT, 10_000)
    assert too_long.error == "context_length_exceeded"
    assert "context length" in too_long.detail
    assert (await send(service, (10**6,), 3)).error == "invalid_request"


async def test_a_full_queue(service: EngineService) -> None:
    records: list[Record] = []
    await drive(endpoint(service), [Job(0.0, (SLOW, 65), 5)] * 300, None, records.append)
    errors = [r.error for r in records]
    assert errors.count("queue_full") >= 1
    assert set(errors) == {None, "queue_full"}


async def test_a_stopped_engine(service: EngineService) -> None:
    service.drain(1.0)
    assert (await send(service, PROMPT, 3)).error == "engine_stopped"


async def test_cancelling_aborts_in_the_engine(service: EngineService) -> None:
    task = asyncio.create_task(send(service, (SLOW, 65), 400))
    await asyncio.to_thread(until, lambda: service.status().running > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: service.status().running == 0)
