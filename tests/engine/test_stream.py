"""AsyncStream: a request's deltas for asyncio callers, whole or left early."""

from __future__ import annotations

import asyncio

import pytest

from headrace.engine.service import EngineService
from headrace.nouns.errors import EngineStopped
from headrace.nouns.event import Event, Kind
from headrace.nouns.sequence import FinishReason
from tests.engine.engines import Gate, Typist, asked, serving, submit


async def test_a_stream_yields_every_delta_and_ends() -> None:
    executor = Typist()
    executor.texts["r"] = b"hello"
    with serving(executor) as service:
        stream = service.stream(asked(service, n=2))
        deltas = [delta async for delta in stream]
        for index in range(2):
            mine = [d for d in deltas if d.index == index]
            assert "".join(d.text for d in mine) == "hello"
            assert [d.finish_reason for d in mine[:-1]] == [None] * (len(mine) - 1)
            assert mine[-1].finish_reason is FinishReason.STOP
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def settled(service: EngineService) -> None:
    assert await asyncio.to_thread(service.drain, 30)
    status = service.status()
    assert (status.free_blocks, status.running, status.waiting) == (status.total_blocks, 0, 0)


@pytest.mark.parametrize("how", ["cancel", "break", "context", "raise", "close"])
async def test_leaving_a_stream_early_aborts_its_request(how: str) -> None:
    executor = Typist()
    gate = Gate(executor, steps=2)
    events: list[Event] = []
    with serving(executor, max_context=250, sinks=[events.append]) as service:
        request = asked(service, max_tokens=200, ignore_eos=True)
        arrived = asyncio.Event()

        async def read() -> None:
            if how in ("context", "raise"):
                async with service.stream(request) as stream:
                    await anext(stream)
                    if how == "raise":
                        raise ValueError(how)
            elif how == "close":
                stream = service.stream(request)
                await anext(stream)
                await stream.aclose()
                await stream.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            else:
                async for _ in service.stream(request):
                    arrived.set()
                    if how == "break":
                        break

        task = asyncio.create_task(read())
        if how == "cancel":
            await arrived.wait()
            task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        kinds = {"cancel": asyncio.CancelledError, "raise": ValueError}
        assert isinstance(outcome, kinds.get(how, type(None)))
        await asyncio.sleep(0)
        gate.open()
        await settled(service)
    (ended,) = [e for e in events if e.kind in (Kind.ABORTED, Kind.FINISHED)]
    assert ended.kind is Kind.ABORTED
    assert int(ended.data["output"]) <= 4, "within a step or two"


async def test_an_aborted_stream_still_gives_its_last_delta() -> None:
    executor = Typist()
    gate = Gate(executor, steps=2)
    with serving(executor, max_context=250) as service:
        stream = service.stream(asked(service, max_tokens=200, ignore_eos=True))
        await anext(stream)
        stream.abort()
        gate.open()
        deltas = [delta async for delta in stream]
        assert deltas[-1].finish_reason is FinishReason.ABORT


async def test_a_refused_stream_raises_at_once() -> None:
    with serving() as service:
        service.drain(30)
        with pytest.raises(EngineStopped, match="shutting down"):
            service.stream(asked(service))


def test_a_loop_that_is_gone_hurts_nobody_and_is_forgotten() -> None:
    executor = Typist()
    gate = Gate(executor, steps=2)
    with serving(executor, max_context=250) as service:

        async def leave(i: int) -> None:
            stream = service.stream(asked(service, f"r{i}", max_tokens=200, ignore_eos=True))
            await anext(stream)

        for i in range(4):
            asyncio.run(leave(i))
            gate.open()  # the first one's deltas now go to a loop that is closed
        submit(service).wait()
        assert len(service._mailboxes) <= 1
        for i in range(4):
            service.abort(f"r{i}")
