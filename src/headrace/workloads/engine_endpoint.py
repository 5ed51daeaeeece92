"""EngineEndpoint: an engine in this process, without HTTP."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterable
from typing import Protocol

from headrace.nouns.delta import Delta
from headrace.nouns.errors import HeadraceError, InvalidRequest, QueueFull
from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import FinishReason
from headrace.workloads.endpoint import clock
from headrace.workloads.job import Job
from headrace.workloads.record import Record


class Engine(Protocol):
    """What is asked of an engine service. ``on_delta`` is called on a thread of the engine's."""

    def request(
        self, prompt_ids: Iterable[int], params: SamplingParams, *, tenant: str = ...
    ) -> Request: ...

    def submit(self, request: Request, on_delta: Callable[[Delta], None]) -> None: ...

    def abort(self, request_id: str) -> None: ...


class EngineEndpoint:
    """Sends greedy requests that ignore end tokens; times are taken on the engine's thread.

    Requests of different ``tenant`` share no prefixes, so a new tenant starts with a fresh cache.
    ``encode`` turns the prompts of jobs that are texts into token ids.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        encode: Callable[[str], list[int]],
        tenant: str = "bench",
    ) -> None:
        self.name = name
        self.tenant = tenant
        self._engine = engine
        self._encode = encode

    async def send(self, job: Job, due: float) -> Record:
        ids = self._encode(job.prompt) if isinstance(job.prompt, str) else job.prompt
        params = SamplingParams(temperature=0.0, max_tokens=job.output_tokens, ignore_eos=True)
        record = Record(due, clock(), prompt_tokens=len(ids))
        listener = _Listener(record)
        try:
            request = self._engine.request(ids, params, tenant=self.tenant)
            self._engine.submit(request, listener)
        except QueueFull as error:
            return record.fail(error.code, str(error), clock())
        except InvalidRequest as error:
            return record.fail(error.code or "invalid_request", str(error), clock())
        except HeadraceError as error:
            return record.fail("engine_stopped", str(error), clock())
        try:
            await listener.ended
        finally:
            if not listener.ended.done() or listener.ended.cancelled():
                self._engine.abort(request.id)
        return record


class _Listener:
    """Books deltas on a record; wakes the event loop once, at the end."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._times = array("d")
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def __call__(self, delta: Delta) -> None:
        now = clock()
        if delta.tokens:
            self._times.append(now)
            self._record.output_tokens += len(delta.tokens)
        if delta.finish_reason is not None:
            self._close(delta, now)

    def _close(self, delta: Delta, now: float) -> None:
        record = self._record
        record.deliveries = self._times
        record.end = self._times[-1] if self._times else now
        if delta.usage is not None:
            record.cached = delta.usage.cached
        if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
            record.fail(f"engine_{delta.finish_reason.value}", delta.error or "aborted", now)
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop closed meanwhile: nobody waits
            return

    def _wake(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
