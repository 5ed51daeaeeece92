"""AsyncStream: a request's deltas for asyncio callers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from headrace.nouns.delta import Delta


class Mailbox:
    """Carries deltas from the engine's thread to one event loop, one wake-up per step.

    ``post`` and ``flush`` are called on the engine's thread only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: list[tuple[AsyncStream, Delta]] = []

    def post(self, stream: AsyncStream, delta: Delta) -> None:
        self._letters.append((stream, delta))

    def flush(self) -> None:
        letters, self._letters = self._letters, []
        if letters and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._hand_out, letters)
            except RuntimeError:  # the loop closed meanwhile: nobody is left to read
                return

    @staticmethod
    def _hand_out(letters: list[tuple[AsyncStream, Delta]]) -> None:
        for stream, delta in letters:
            stream.put(delta)


class AsyncStream:
    """``async for delta in stream`` until each of the request's ``n`` sequences has ended.

    Leaving the loop early, closing or cancelling aborts the request in the engine; ``async with``
    does so also where an exception leaves the loop and is kept.
    """

    def __init__(self, request_id: str, n: int, abort: Callable[[str], None]) -> None:
        self.request_id = request_id
        self._open = n
        self._abort = abort
        self._ready: deque[Delta] = deque()
        self._wake = asyncio.Event()

    def put(self, delta: Delta) -> None:
        """Called on the event loop."""
        self._ready.append(delta)
        self._wake.set()

    def abort(self) -> None:
        """Ends the request; its last deltas still arrive."""
        if self._open:
            self._abort(self.request_id)

    async def aclose(self) -> None:
        """Ends the request and reads no further."""
        self.abort()
        self._open = 0

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._each()

    async def _each(self) -> AsyncIterator[Delta]:
        """A generator, since leaving a loop over one runs its ``finally``."""
        try:
            while self._open:
                yield await self.__anext__()
        finally:
            await self.aclose()

    async def __anext__(self) -> Delta:
        if not self._open:
            raise StopAsyncIteration
        try:
            while not self._ready:
                self._wake.clear()
                await self._wake.wait()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        delta = self._ready.popleft()
        if delta.finish_reason is not None:
            self._open -= 1
        return delta

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
