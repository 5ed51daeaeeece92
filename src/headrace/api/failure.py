"""Failure: an error on its way to the client, in the shape of the OpenAI API."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from headrace.nouns.errors import EngineStopped, HeadraceError, InvalidRequest, QueueFull

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
MANY_FAULTS = 1000


class Failure(Exception):
    """An HTTP status and what the ``error`` object says. ``code`` is a stable identifier."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        return Response(orjson.dumps(self.body()), self.status, self.headers, "application/json")


def of_error(error: HeadraceError) -> Failure:
    """The failure that stands for one of our errors."""
    if isinstance(error, InvalidRequest):
        code = error.code or "invalid_value"
        return Failure(400, str(error), code=code, param=error.param)
    if isinstance(error, QueueFull):
        seconds = max(1, math.ceil(error.retry_after))
        headers = {"Retry-After": str(seconds)}
        return Failure(429, str(error), code=error.code, headers=headers)
    if isinstance(error, EngineStopped):
        return Failure(503, str(error), code="engine_stopped", headers={"Retry-After": "5"})
    return Failure(500, str(error), code="engine_error")


def of_validation(error: ValidationError) -> Failure:
    """The failure for the first fault found in a body; of very many none is looked at."""
    if error.error_count() > MANY_FAULTS:  # pydantic can only describe all of them at once
        message = f"the body has {error.error_count()} faults; docs/api.md says what is accepted"
        return Failure(400, message, code="invalid_value")
    fault = error.errors(include_url=False)[0]
    kind, where = fault["type"], _path(fault["loc"])
    if kind == "json_invalid":
        reason = fault.get("ctx", {}).get("error", "unknown")
        return Failure(400, f"the body is not valid JSON: {reason}", code="invalid_json")
    if kind == "extra_forbidden":
        message = f"unknown field {where!r}; remove it (docs/api.md lists what is supported)"
        return Failure(400, message, code="unknown_parameter", param=where)
    if kind == "unsupported_value":
        return Failure(400, f"{where} {fault['msg']}", code=kind, param=where)
    if kind == "missing":
        return Failure(400, f"field {where!r} is missing", code="missing_parameter", param=where)
    message = f"{where or 'the body'} is {_shown(fault['input'])}: {fault['msg']}"
    return Failure(400, message, code="invalid_value", param=where or None)


def _path(parts: tuple[int | str, ...]) -> str:
    """Such as ``messages[0].content``."""
    steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return "".join(steps).removeprefix(".")


def _shown(value: object) -> str:
    return reprlib.repr(value)
