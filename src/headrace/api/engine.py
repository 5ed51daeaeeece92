"""Engine: what the HTTP server asks of an engine service. ``EngineService`` is the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from headrace.nouns.delta import Delta
from headrace.nouns.event import Sink
from headrace.nouns.request import Request, Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.tenant import Tenants


class Tokenizer(Protocol):
    """Text to token ids and back."""

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = True
    ) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str: ...

    def token_bytes(self, token: int, /) -> bytes: ...

    def special_text(self, token: int, /) -> str: ...

    def is_special(self, token: int, /) -> bool: ...


class ChatTemplate(Protocol):
    """A model's way of writing a conversation as one text."""

    @property
    def supports_tools(self) -> bool: ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str: ...


class Model(Protocol):
    """The served model. ``created`` is in Unix seconds."""

    @property
    def name(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def chat_template(self) -> ChatTemplate | None: ...

    @property
    def max_context(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def created(self) -> int: ...


class Status(Protocol):
    """A look at the engine. Ages in seconds; ``failure`` says what broke it."""

    @property
    def ready(self) -> bool: ...

    @property
    def draining(self) -> bool: ...

    @property
    def running(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def free_blocks(self) -> int: ...

    @property
    def total_blocks(self) -> int: ...

    @property
    def last_step_age(self) -> float | None: ...

    @property
    def steps(self) -> int: ...

    @property
    def failure(self) -> str | None: ...


class Engine(Protocol):
    """An engine on a thread of its own; every method may be called from any thread."""

    def start(self) -> None: ...

    def wait_ready(self, timeout: float | None = None) -> None: ...

    @property
    def ready(self) -> bool: ...

    @property
    def tenants(self) -> Tenants: ...

    def most_waiting(self, tenant: str) -> int: ...

    @property
    def model(self) -> Model: ...

    def request(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams,
        *,
        n: int = 1,
        id: str | None = None,
        tenant: str = "default",
        priority: int | None = None,
        targets: Targets = ...,
        category: str = "",
    ) -> Request: ...

    def now(self) -> float: ...

    def submit(self, request: Request, on_delta: Callable[[Delta], None]) -> None: ...

    def abort(self, request_id: str) -> None: ...

    def status(self) -> Status: ...

    def predicted_wait(self) -> float | None: ...

    def explain(self, request_id: str) -> Mapping[str, object] | None: ...

    def drain(self, timeout: float) -> bool: ...

    def close(self) -> None: ...

    def add_sink(self, sink: Sink) -> None: ...
