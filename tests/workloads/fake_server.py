"""A server with OpenAI's completions that does as it is told, on a free port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class FakeServer:
    """``gap`` seconds pass before each token. ``unknown`` fields are refused by name.

    A request whose prompt begins with a key of ``acts`` is treated by that name: a status, or
    "cut" (the connection drops in the middle), "error" (an error within the stream).
    """

    gap: float = 0.0
    unknown: frozenset[str] = frozenset()
    acts: dict[int, int | str] = field(default_factory=dict)
    cached: int | None = None
    key: str | None = None
    listed: Any = field(default_factory=lambda: {"data": [{"id": "fake", "max_model_len": 99}]})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    hung_up: int = 0
    url: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeServer]:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._counted)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return refuse(401, "no key", "invalid_api_key")
        return web.json_response(self.listed)

    async def _counted(self, request: web.Request) -> web.StreamResponse:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._complete(request)
        except asyncio.CancelledError:
            self.hung_up += 1
            raise
        finally:
            self.open -= 1

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        for name in self.unknown & body.keys():
            return refuse(400, f"unknown field {name}", None)
        first = body["prompt"][0]
        act = self.acts.get(first) if isinstance(first, int) else None
        if isinstance(act, int):
            return refuse(act, "as told", "told")
        tokens = body["max_tokens"]
        usage: dict[str, Any] = {
            "prompt_tokens": len(body["prompt"]), "completion_tokens": tokens,
        }  # fmt: skip
        if self.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        if not body["stream"]:
            await asyncio.sleep(self.gap * tokens)
            return web.json_response({"choices": [{"text": "x" * tokens}], "usage": usage})
        return await self._stream(request, tokens, act, usage if "stream_options" in body else None)

    async def _stream(
        self, request: web.Request, tokens: int, act: str | None, usage: dict[str, Any] | None
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for i in range(tokens):
            await asyncio.sleep(self.gap)
            if act == "cut" and i == tokens // 2:
                assert request.transport is not None
                request.transport.abort()
                return response
            if act == "error" and i == tokens // 2:
                await send(response, {"error": {"message": "as told", "code": "engine_error"}})
                return response
            finish = "length" if i == tokens - 1 else None
            await send(response, {"choices": [{"text": "x", "finish_reason": finish}]})
        if usage is not None:
            await send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def send(response: web.StreamResponse, value: Any) -> None:
    await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")


def refuse(status: int, message: str, code: str | None) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "code": code}
    return web.json_response({"error": error}, status=status)
