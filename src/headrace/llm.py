"""LLM: a model as a Python object. Load it, generate, stream, chat; sync and async."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard, Unpack

from headrace.completion import Completion, CompletionBuilder
from headrace.nouns.delta import Delta
from headrace.nouns.errors import (
    ConfigError,
    EngineStopped,
    InvalidRequest,
    QueueFull,
    TemplateError,
)
from headrace.nouns.request import Request, Targets
from headrace.nouns.sampling_params import SamplingParams

if TYPE_CHECKING:
    from headrace.engine.service import EngineService

Prompt = str | Sequence[int]
Message = Mapping[str, Any]

_POLL = 0.5  # seconds between looks at the engine's health while nothing arrives
_IN_FLIGHT = 256  # requests of one call that wait in the engine at a time


class Demand(TypedDict, total=False):
    """On whose behalf a call comes, how urgent it is, and of what kind.

    The deadline in ``targets`` is in seconds from now, their ``ttft`` counts from when the engine
    has room for the request. What is left out is as in the tenant's terms
    (option ``tenants``).
    """

    tenant: str
    priority: int
    targets: Targets
    category: str


class LLM:
    """A model with its own engine, or a view on an engine that somebody else owns.

    ``options`` are the fields of EngineConfig (``weights``, ``cache_bytes``, ``max_context``, ...).
    Construction returns when the model is ready. Prompts are text or token ids; text is encoded
    with the model's special tokens. Every method may be called from any thread.

    Raises ModelError or ConfigError when the model cannot be loaded as asked, InvalidRequest
    (ContextLengthExceeded, TemplateError) for a prompt or parameters that cannot be honoured,
    EngineStopped once closed. A failure inside one request is that Output's ``error``.
    """

    def __init__(self, model: str = "smollm2:135m", **options: Any) -> None:
        from headrace.engine.config import EngineConfig
        from headrace.engine.service import EngineService

        known = {field.name for field in fields(EngineConfig)} - {"model"}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ConfigError(
                f"LLM has no option {unknown[0]!r}; the options are {', '.join(sorted(known))}"
            )
        self._service = EngineService(EngineConfig(model=model, **options))
        self._owned = True
        self._service.start()
        try:
            self._service.wait_ready()
        except BaseException:
            self._service.close()
            raise

    @classmethod
    def over(cls, service: EngineService) -> LLM:
        """The same methods on a running engine; closing this object leaves the engine running.

        Waits until the engine is ready and raises the error that kept it from loading.
        """
        llm = cls.__new__(cls)
        llm._service = service
        llm._owned = False
        service.wait_ready()
        return llm

    @property
    def model_name(self) -> str:
        """Name of the model being served."""
        return self._service.model.name

    @property
    def max_context(self) -> int:
        """Most tokens a prompt and its output can have together."""
        return self._service.model.max_context

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as ``generate`` would see it."""
        return self._service.model.tokenizer.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._service.model.tokenizer.decode(list(tokens))

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of a conversation in the model's chat format, ready to be answered.

        Raises TemplateError when the model has no chat template or its template refuses.
        """
        model = self._service.model
        if model.chat_template is None:
            raise TemplateError(
                f"the model {model.name} has no chat template; use generate or stream with a prompt"
            )
        text = model.chat_template.render(
            [dict(message) for message in messages],
            tools=[dict(tool) for tool in tools] if tools else None,
        )
        return model.tokenizer.encode(text, add_special=False)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        **demand: Unpack[Demand],
    ) -> list[Completion]:
        """Completes all prompts together; the answers come in the order of the prompts.

        ``params`` is one for all prompts or one for each, ``demand`` holds for all. All
        requests are checked before the first is run. An interrupt aborts whatever is still running.
        """
        requests = self._requests(prompts, params, n, demand)
        builders = {r.id: CompletionBuilder(r.id, r.prompt, n) for r in requests}
        arrived: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        waiting = list(reversed(requests))
        running: set[str] = set()
        try:
            while waiting or running:
                self._fill(waiting, running, arrived)
                delta = self._next(arrived)
                if delta is None:
                    continue
                builder = builders[delta.request_id]
                builder.add(delta)
                if builder.done:
                    running.discard(delta.request_id)
        finally:
            for request_id in running:
                self._service.abort(request_id)
        return [builders[r.id].build() for r in requests]

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **demand: Unpack[Demand]
    ) -> Iterator[Delta]:
        """Completes one prompt, delta by delta. Closing the iterator aborts the request."""
        [request] = self._requests([prompt], params, 1, demand)
        return self._deltas(request)

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **demand: Unpack[Demand],
    ) -> Completion:
        """The answer to a conversation of ``{"role": ..., "content": ...}`` messages.

        For many conversations at once, or a stream, pass what ``render`` gives to ``generate``,
        ``stream``, ``agenerate`` or ``astream``.
        """
        return self.generate([self.render(messages, tools)], params, **demand)[0]

    async def agenerate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        **demand: Unpack[Demand],
    ) -> Completion:
        """Completes one prompt; gather several for a batch. Cancelling it aborts the request.

        Waits while the engine's queue is full.
        """
        [request] = self._requests([prompt], params, n, demand)
        builder = CompletionBuilder(request.id, request.prompt, n)
        while True:
            try:
                async with aclosing(self._service.stream(self._sent(request))) as deltas:
                    async for delta in deltas:
                        builder.add(delta)
                return builder.build()
            except QueueFull as full:
                await asyncio.sleep(min(max(full.retry_after, 0.05), 5.0))

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **demand: Unpack[Demand]
    ) -> AsyncIterator[Delta]:
        """Completes one prompt, delta by delta. Closing the iterator aborts the request."""
        [request] = self._requests([prompt], params, 1, demand)
        async with aclosing(self._service.stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    def close(self) -> None:
        """Stops the engine and frees its memory; what still runs is aborted. May be repeated."""
        if self._owned:
            self._service.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _requests(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        n: int,
        demand: Demand,
    ) -> list[Request]:
        several = as_prompts(prompts)
        asked = Demand(**demand)
        if "targets" in asked:
            asked["targets"] = asked["targets"].since(self._service.now())
        if params is None or isinstance(params, SamplingParams):
            given = [params or SamplingParams()] * len(several)
        else:
            given = list(params)
        if len(given) != len(several):
            raise InvalidRequest(
                f"there are {len(several)} prompts and {len(given)} params;"
                " give one for all or one for each",
                "params",
            )
        requests = []
        for place, (prompt, param) in enumerate(zip(several, given, strict=True)):
            try:
                ids = self.encode(prompt) if isinstance(prompt, str) else list(prompt)
                requests.append(self._service.request(ids, param, n=n, **asked))
            except InvalidRequest as error:
                if len(several) > 1:
                    error.args = (f"prompt {place} of {len(several)}: {error}",)
                raise
        return requests

    def _sent(self, request: Request) -> Request:
        """As it is handed to the engine: what it waited here, for room, is not the engine's."""
        if request.targets.ttft is None:
            return request
        return replace(request, arrival=self._service.now())

    def _fill(
        self, waiting: list[Request], running: set[str], arrived: queue.SimpleQueue[Delta]
    ) -> None:
        """Submits what the engine takes now; ``waiting`` is in reverse order."""
        while waiting and len(running) < _IN_FLIGHT:
            try:
                self._service.submit(self._sent(waiting[-1]), arrived.put)
            except QueueFull as full:
                if not running:
                    time.sleep(min(max(full.retry_after, 0.05), 5.0))
                return
            running.add(waiting.pop().id)

    def _next(self, arrived: queue.SimpleQueue[Delta]) -> Delta | None:
        """The next delta, or None after a while. Raises EngineStopped if none can come."""
        try:
            return arrived.get(timeout=_POLL)
        except queue.Empty:
            failure = self._service.status().failure
            if failure is not None:
                raise EngineStopped(f"the engine has failed: {failure}") from None
            return None

    def _deltas(self, request: Request) -> Iterator[Delta]:
        arrived: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self._service.submit(request, arrived.put)
        ended = False
        try:
            while not ended:
                delta = self._next(arrived)
                if delta is not None:
                    ended = delta.finish_reason is not None
                    yield delta
        finally:
            if not ended:
                self._service.abort(request.id)


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list. Raises InvalidRequest for what is neither."""
    if isinstance(prompts, str):
        return [prompts]
    several = list(prompts)
    if several and all(isinstance(item, int) for item in several):
        return [[item for item in several if isinstance(item, int)]]
    for place, item in enumerate(several):
        if not _is_prompt(item):
            raise InvalidRequest(
                f"prompt {place} of {len(several)} is neither text nor a list of token ids",
                "prompt",
            )
    return [item for item in several if _is_prompt(item)]


def _is_prompt(item: object) -> TypeGuard[Prompt]:
    if isinstance(item, str):
        return True
    return isinstance(item, Sequence) and all(isinstance(token, int) for token in item)
