"""The HTTP endpoint against a server that does as it is told."""

from __future__ import annotations

import asyncio

import pytest

from headrace.nouns.errors import HeadraceError
from headrace.workloads.endpoint import clock
from headrace.workloads.http_endpoint import HttpEndpoint
from headrace.workloads.job import Job
from tests.api.live_server import until
from tests.workloads.fake_server import FakeServer

JOB = Job(0.0, (1, 2, 3), 4)


async def test_a_streamed_request() -> None:
    async with (
        FakeServer(gap=0.01, cached=2).running() as server,
        HttpEndpoint(server.url) as endpoint,
    ):
        await endpoint.warm_up(JOB)
        due = clock() - 0.5
        record = await endpoint.send(JOB, due)
        assert endpoint.max_context == 99
        assert endpoint.notes == []
    assert record.error is None
    assert (record.prompt_tokens, record.output_tokens, record.cached) == (3, 4, 2)
    assert (record.due, len(record.deliveries)) == (due, 4)
    assert record.lag >= 0.5
    # Four gaps have passed at least; how much longer it took is the machine's business.
    assert record.ttft is not None
    assert record.ttft >= 0.5 + 0.01
    assert record.end - record.sent >= 4 * 0.01
    assert list(record.deliveries) == sorted(record.deliveries)
    assert server.bodies[-1] == {
        "model": "fake", "prompt": [1, 2, 3], "max_tokens": 4, "temperature": 0, "stream": True,
        "ignore_eos": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


async def test_a_request_in_one_piece_and_a_text() -> None:
    async with (
        FakeServer().running() as server,
        HttpEndpoint(f"{server.url}/v1/", stream=False) as endpoint,
    ):
        await endpoint.warm_up(JOB)
        record = await endpoint.send(Job(0.0, "some text", 4), clock())
    assert (record.error, record.ttft, record.tpot) == (None, None, None)
    assert (record.output_tokens, record.prompt_tokens) == (4, len("some text"))
    assert record.end >= record.sent
    assert server.bodies[-1]["prompt"] == "some text"
    assert "stream_options" not in server.bodies[-1]


@pytest.mark.parametrize(
    ("unknown", "notes"),
    [
        ({"ignore_eos"}, ["no ignore_eos"]),
        ({"stream_options"}, ["no token counts"]),
        ({"ignore_eos", "stream_options"}, ["no ignore_eos", "no token counts"]),
    ],
)
async def test_what_a_server_does_not_know_is_done_without(
    unknown: set[str], notes: list[str]
) -> None:
    async with (
        FakeServer(unknown=frozenset(unknown)).running() as server,
        HttpEndpoint(server.url) as endpoint,
    ):
        await endpoint.warm_up(JOB)
        record = await endpoint.send(JOB, clock())
        assert len(endpoint.notes) == len(notes)
        for told, expected in zip(endpoint.notes, notes, strict=True):
            assert expected in told
    assert record.output_tokens == 4
    assert not unknown & server.bodies[-1].keys()


async def test_failures_have_a_kind_and_end_one_request_only() -> None:
    acts: dict[int, int | str] = {5: 429, 6: "cut", 7: "error", 8: 500}
    async with FakeServer(acts=acts).running() as server, HttpEndpoint(server.url) as endpoint:
        await endpoint.warm_up(JOB)
        jobs = [Job(0.0, (first, 2), 4) for first in (1, 5, 6, 7, 8)]
        records = await asyncio.gather(*(endpoint.send(job, clock()) for job in jobs))
    assert [r.error for r in records] == [None, "told", "disconnected", "engine_error", "told"]
    assert records[1].detail == "HTTP 429: as told"
    assert all(r.end >= r.sent for r in records)


async def test_a_server_that_refuses_everything_cannot_be_measured() -> None:
    async with FakeServer(acts={1: 404}).running() as server, HttpEndpoint(server.url) as endpoint:
        with pytest.raises(HeadraceError, match="cannot be measured: HTTP 404: as told"):
            await endpoint.warm_up(JOB)


async def test_keys() -> None:
    async with (
        FakeServer(key="secret").running() as server,
        HttpEndpoint(server.url, key="secret") as endpoint,
    ):
        assert endpoint.name == f"fake at {server.url}/v1"
        with pytest.raises(HeadraceError, match="--api-key-file"):
            async with HttpEndpoint(server.url, key="wrong"):
                pass


@pytest.mark.parametrize("listed", [{}, [], {"data": None}, {"data": ["x"]}, {"data": [{}]}])
async def test_a_server_that_lists_no_models_is_asked_without_one(listed: object) -> None:
    async with FakeServer(listed=listed).running() as server, HttpEndpoint(server.url) as endpoint:
        await endpoint.warm_up(JOB)
        assert endpoint.max_context is None
    assert "model" not in server.bodies[-1]


async def test_nobody_there() -> None:
    with pytest.raises(HeadraceError, match="cannot be reached"):
        async with HttpEndpoint("http://127.0.0.1:9"):
            pass
    with pytest.raises(HeadraceError, match="must begin with"):
        HttpEndpoint("127.0.0.1:8000")


async def test_cancelling_hangs_up() -> None:
    async with FakeServer(gap=0.02).running() as server, HttpEndpoint(server.url) as endpoint:
        await endpoint.warm_up(JOB)
        task = asyncio.create_task(endpoint.send(Job(0.0, (1,), 100_000), clock()))
        await asyncio.to_thread(until, lambda: server.open == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: server.open == 0)
    assert server.hung_up == 1
