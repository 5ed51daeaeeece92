"""EventStream: a generation's output sent as server-sent events."""

from __future__ import annotations

from typing import Protocol

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.api.failure import Failure
from headrace.api.generation import ClientGone, Generation, Piece, Total
from headrace.api.metrics import Metrics

DONE = b"data: [DONE]\n\n"


class Chunks(Protocol):
    """Writes a route's events."""

    def piece(self, piece: Piece) -> bytes:
        """The events for what a choice gained; none if there is nothing to show."""
        ...

    def end(self, usage: Total) -> bytes:
        """The events after all choices have ended."""
        ...


class EventStream(Response):
    """Sends all that one step brought in one write. Follows the HTML standard's event streams.

    An error after the start is an event of its own, with the same body as an error response.
    """

    media_type = "text/event-stream"

    def __init__(
        self, generation: Generation, chunks: Chunks, metrics: Metrics, headers: dict[str, str]
    ) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-cache", **headers})
        del self.headers["content-length"]
        self._generation = generation
        self._chunks = chunks
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            async with self._generation.watched(receive):
                await send(start)
                last = await self._send_pieces(send)
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": last + DONE})

    async def _send_pieces(self, send: Send) -> bytes:
        """Returns what is left to send."""
        write = self._chunks.piece
        try:
            async for pieces in self._generation.steps():
                body = b"".join([write(piece) for piece in pieces])
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except Failure as failure:
            self._metrics.failed(failure.code)
            return event(orjson.dumps(failure.body()))
        return self._chunks.end(self._generation.usage)


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"
