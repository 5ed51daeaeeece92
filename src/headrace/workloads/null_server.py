"""A server that answers at once: what a load generator can take at most.

``python -m headrace.workloads.null_server`` prints its port and serves until its standard input
closes. It knows what the generator asks: GET /v1/models and POST /v1/completions.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson

MODEL = "null"
CHUNK = b'data: {"id":"null","object":"text_completion","created":0,"model":"null","choices":['
TOKEN = CHUNK + b'{"index":0,"text":" token","logprobs":null,"finish_reason":null}]}\n\n'
LAST = CHUNK + b'{"index":0,"text":" token","logprobs":null,"finish_reason":"length"}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "
STREAM_HEAD = HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class NullServer(asyncio.Protocol):
    """One connection. Every token is a write of its own, all streams take turns."""

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end].lower()
            _, found, after = head.partition(b"content-length:")
            length = int(after.split(b"\r\n", 1)[0]) if found else 0
            if len(self._rest) < end + 4 + length:
                return
            body = self._rest[end + 4 : end + 4 + length]
            self._rest = self._rest[end + 4 + length :]
            if head.startswith(b"post"):
                self._complete(orjson.loads(body))
            else:
                self._write_json({"object": "list", "data": [{"id": MODEL}]})

    def _complete(self, body: dict[str, Any]) -> None:
        tokens = int(body.get("max_tokens", 16))
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": tokens}
        if not body.get("stream"):
            choice = {"index": 0, "text": " token" * tokens, "finish_reason": "length"}
            self._write_json({"choices": [choice], "usage": usage})
            return
        self._write(STREAM_HEAD)
        self._emit(tokens, b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n")

    def _emit(self, left: int, usage: bytes) -> None:
        if left > 1:
            self._write(_chunk(TOKEN))
            self._loop.call_soon(self._emit, left - 1, usage)
        else:
            self._write(_chunk(LAST) + _chunk(usage + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    def _write_json(self, value: object) -> None:
        data = orjson.dumps(value)
        head = HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
        self._write(head + data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve() -> None:
    """Serves on a free port of the loopback address until standard input closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(NullServer, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
