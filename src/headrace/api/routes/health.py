"""/health, /ready, /metrics and /requests/{id}: how the server and its requests are doing."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from headrace.api.context import Context, tenant_of
from headrace.api.engine import Status
from headrace.api.failure import Failure
from headrace.api.metrics import CONTENT_TYPE


def router(context: Context) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get("/health", summary="Is the server alive?")
    async def health() -> Response:
        failure = context.engine.status().failure
        if failure is not None:
            return _json({"status": "failed", "reason": failure}, 503)
        return _json({"status": "ok"}, 200)

    @routes.get("/ready", summary="Does the server take requests?")
    async def ready() -> Response:
        status = context.engine.status()
        state, reason = state_of(status)
        return _json(
            {
                "status": state,
                "reason": reason,
                "model": context.engine.model.name if context.engine.ready else None,
                "last_step_age": status.last_step_age,
                "running": status.running,
                "waiting": status.waiting,
                "predicted_wait": context.engine.predicted_wait(),
            },
            200 if state == "ready" else 503,
        )

    @routes.get("/metrics", summary="Metrics in Prometheus' text format")
    async def metrics() -> Response:
        return Response(context.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @routes.get("/requests/{id}", summary="What a request waits or waited for, and why")
    async def explain(id: str, request: HttpRequest) -> Response:
        found = context.engine.explain(id)
        if found is not None:
            _check_tenant(found, tenant_of(request), id)
            return _json(found, 200)
        parts: list[Any] = []
        while (part := context.engine.explain(f"{id}.{len(parts)}")) is not None:
            _check_tenant(part, tenant_of(request), id)
            parts.append(part)
        if not parts:
            raise _unknown(id)
        return _json({"id": id, "prompts": parts}, 200)

    return routes


def state_of(status: Status) -> tuple[str, str]:
    """One word for the state, and what it means."""
    if status.failure is not None:
        return "failed", status.failure
    if status.draining:
        return "draining", "the server is shutting down and takes no new requests"
    if not status.ready:
        return "loading", "the model is being loaded"
    return "ready", ""


def _check_tenant(found: Any, tenant: str, id: str) -> None:
    """Others' requests are as good as unknown."""
    if found.get("tenant", tenant) != tenant:
        raise _unknown(id)


def _unknown(id: str) -> Failure:
    message = f"no request {id[:80]!r} is known; the ends of recent ones are kept for a while"
    return Failure(404, message, code="request_not_found", param="id")


def _json(value: Any, status: int) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
