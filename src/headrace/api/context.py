"""Context: what every route needs, and the steps that several of them share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import TypeVar

from fastapi import Request as HttpRequest
from pydantic import ValidationError

from headrace.api.engine import Engine, Model
from headrace.api.failure import Failure, of_validation
from headrace.api.keys import DEFAULT_TENANT
from headrace.api.mailbox import Mailbox
from headrace.api.metrics import Metrics
from headrace.api.schemas.body import Body
from headrace.api.settings import ServerSettings

TENANT = "headrace.tenant"
"""Where the guard leaves the tenant in a request's ASGI scope."""
LONG_TEXT = 4096
"""Characters from which on a text is not worked on by the event loop's thread."""

AnyBody = TypeVar("AnyBody", bound=Body)


class Context:
    """The engine, the settings and the metrics of one server."""

    def __init__(self, engine: Engine, settings: ServerSettings, metrics: Metrics) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self._mailbox: Mailbox | None = None

    def mailbox(self) -> Mailbox:
        """The mailbox of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return self._mailbox

    def model(self, asked: str | None = None) -> Model:
        """The served model. Raises Failure for another's name, EngineStopped until loaded."""
        model = self.engine.model
        if asked is not None and asked != model.name:
            raise Failure(
                404,
                f"the model {asked!r} is not served here; this server has {model.name!r}",
                code="model_not_found",
                param="model",
            )
        return model

    async def body(self, request: HttpRequest, kind: type[AnyBody]) -> AnyBody:
        """The request's body. Raises Failure: too large, no JSON, or not as declared."""
        limit, size, parts = self.settings.max_body_bytes, 0, []
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Failure(
                    413,
                    f"the body is larger than {limit} bytes; send a shorter one",
                    code="body_too_large",
                )
            parts.append(part)
        try:
            return kind.model_validate_json(b"".join(parts))
        except ValidationError as error:
            raise of_validation(error) from None


def tenant_of(request: HttpRequest) -> str:
    """On whose behalf the request comes."""
    tenant: str = request.scope.get(TENANT, DEFAULT_TENANT)
    return tenant


def new_id(prefix: str) -> str:
    """An id that cannot be guessed."""
    return f"{prefix}-{secrets.token_hex(16)}"


async def encode(model: Model, text: str, add_special: bool = True) -> list[int]:
    """Token ids of ``text``; long ones are not computed on the event loop."""
    return (await encode_all(model, [text], add_special))[0]


async def encode_all(
    model: Model, prompts: Sequence[str | list[int]], add_special: bool = True
) -> list[list[int]]:
    """Token ids of each prompt, as ``encode``; those that are token ids already stay as they are.

    What counts is how long the texts are together.
    """
    tokenizer = model.tokenizer

    def ids() -> list[list[int]]:
        return [
            tokenizer.encode(prompt, add_special) if isinstance(prompt, str) else prompt
            for prompt in prompts
        ]

    if sum(len(prompt) for prompt in prompts if isinstance(prompt, str)) < LONG_TEXT:
        return ids()
    return await asyncio.to_thread(ids)
