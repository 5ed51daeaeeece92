"""Generation: the engine requests of one HTTP request, and the choices they grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from headrace.api.engine import Engine
from headrace.api.failure import Failure
from headrace.api.mailbox import Mailbox
from headrace.api.metrics import Metrics
from headrace.nouns.delta import Delta, TokenLogprob
from headrace.nouns.errors import InvalidRequest
from headrace.nouns.request import Request
from headrace.nouns.sequence import FinishReason

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Piece = tuple[int, Delta]
"""A choice's number and what it gained."""


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


@dataclass(slots=True)
class Total:
    """Token counts of an HTTP request: prompts count once, however many choices they have."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(slots=True)
class Choice:
    """All that a choice has gained."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Generation:
    """Submits requests that all have the same ``n``; choice ``i * n + k`` is sequence k of i.

    Methods are for the event loop of ``mailbox``.
    """

    def __init__(
        self, engine: Engine, mailbox: Mailbox, metrics: Metrics, requests: Sequence[Request]
    ) -> None:
        self._engine = engine
        self._mailbox = mailbox
        self._metrics = metrics
        self._requests = requests
        self._n = requests[0].n
        self._choices = len(requests) * self._n
        self._ended: set[int] = set()
        self._last_token: dict[int, float] = {}
        self._cached: dict[int, int] = {}
        self._ready: list[Piece] = []
        self._waiter: asyncio.Future[None] | None = None
        self._at_end_only = False
        self._gone = False
        self.usage = Total(prompt=sum(len(r.prompt) for r in requests))

    def start(self) -> None:
        """Submits all requests, or none and raises what the engine raised."""
        wanted = len(self._requests) * self._n
        most = self._engine.most_waiting(self._requests[0].tenant)
        if wanted > most:  # trying again later would not help: this is no 429
            raise InvalidRequest(
                f"{len(self._requests)} prompts of n {self._n} make {wanted} choices and the queue"
                f" holds {most}; send fewer at a time",
                "n" if self._n > 1 else "prompt",
            )
        try:
            for i, request in enumerate(self._requests):
                self._engine.submit(request, partial(self._post, i * self._n))
        except Exception:
            self.abort()
            raise

    async def steps(self) -> AsyncIterator[list[Piece]]:
        """What was gained since the last look, until every choice has ended.

        Raises Failure when a choice ends with an error, ClientGone after a hang-up.
        """
        while not self._over or self._ready:
            if not self._ready:
                await self._wait()
            pieces, self._ready = self._ready, []
            for _, delta in pieces:
                _raise_error(delta)
            yield pieces

    async def choices(self) -> list[Choice]:
        """All choices, once each has ended. Raises as ``steps``."""
        self._at_end_only = True
        choices = [Choice() for _ in range(self._choices)]
        async for pieces in self.steps():
            for number, delta in pieces:
                choice = choices[number]
                choice.text.append(delta.text)
                choice.logprobs.extend(delta.logprobs)
                choice.finish_reason = delta.finish_reason or choice.finish_reason
        return choices

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[None]:
        """Aborts in the engine when the client hangs up, and whatever is left at the end."""
        watcher = asyncio.ensure_future(self._watch(receive))
        try:
            yield
        finally:
            watcher.cancel()
            self.abort()

    def abort(self) -> None:
        """Ends in the engine what has not ended."""
        for i, request in enumerate(self._requests):
            if not all(i * self._n + k in self._ended for k in range(self._n)):
                self._engine.abort(request.id)

    @property
    def _over(self) -> bool:
        return len(self._ended) == self._choices

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self.abort()
        self._wake()

    async def _wait(self) -> None:
        if not self._gone:
            self._waiter = self._mailbox.loop.create_future()
            await self._waiter
        if self._gone:
            raise ClientGone

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _post(self, first_choice: int, delta: Delta) -> None:
        """On the engine's thread: send the delta to the loop."""
        now = time.monotonic()
        self._mailbox.post(self._receive, first_choice + delta.index, delta, now)

    def _receive(self, choice: int, delta: Delta, now: float) -> None:
        self._ready.append((choice, delta))
        if delta.tokens:
            if (before := self._last_token.get(choice)) is not None:
                self._metrics.inter_token(now - before)
            self._last_token[choice] = now
        if delta.finish_reason is not None:
            self._ended.add(choice)
            self._count(choice, delta)
        if self._over or delta.error is not None or not self._at_end_only:
            self._wake()

    def _count(self, choice: int, delta: Delta) -> None:
        if delta.usage is None:
            return
        self.usage.completion += delta.usage.completion
        # Choices of one prompt share its state: it was found in the cache by the first of them.
        prompt = choice // self._n
        cached = min(delta.usage.cached, self._cached.get(prompt, delta.usage.cached))
        self._cached[prompt] = cached
        self.usage.cached = sum(self._cached.values())


def _raise_error(delta: Delta) -> None:
    if delta.finish_reason is FinishReason.ERROR:
        message = delta.error or "the engine could not compute this request"
        raise Failure(500, message, code="engine_error")
    if delta.finish_reason is FinishReason.ABORT:
        message = "the request was aborted because the server is shutting down; send it again"
        raise Failure(503, message, code="aborted", headers={"Retry-After": "5"})
