"""InProcessClient: sends requests to the HTTP application without a socket (ASGI 3.0)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes


class InProcessClient:
    """A client of one application. Requests may be made together."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def post(self, path: str, body: bytes) -> Answer:
        """Posts JSON and waits for the whole answer; cancelling it ends the request."""
        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
        }
        unsent: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        hung_up = asyncio.Event()
        received: list[Message] = []

        async def receive() -> Message:
            if unsent:
                return unsent.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            received.append(message)

        try:
            await self._app(scope, receive, send)
        finally:
            hung_up.set()
        return _answer(received)


def _answer(received: list[Message]) -> Answer:
    start = next(m for m in received if m["type"] == "http.response.start")
    headers = {name.decode("latin-1").lower(): v.decode("latin-1") for name, v in start["headers"]}
    bodies = [m.get("body", b"") for m in received if m["type"] == "http.response.body"]
    return Answer(start["status"], headers, b"".join(bodies))
