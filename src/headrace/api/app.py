"""create_app: the ASGI application of a server."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response

import headrace
from headrace.api import openapi
from headrace.api.context import Context
from headrace.api.engine import Engine
from headrace.api.failure import Failure, of_error
from headrace.api.guard import Guard
from headrace.api.metrics import Metrics
from headrace.api.routes import completions, health, models, tokens
from headrace.api.settings import ServerSettings
from headrace.nouns.errors import HeadraceError


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """The application that serves ``engine``; the caller starts and closes the engine."""
    settings = settings or ServerSettings()
    metrics = Metrics(engine)
    engine.add_sink(metrics)
    context = Context(engine, settings, metrics)
    app = FastAPI(title="Headrace", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    for room in (completions, models, tokens, health):
        app.include_router(room.router(context))
    _add_documents(app)
    _add_errors(app, metrics)
    return app


def _add_documents(app: FastAPI) -> None:
    @functools.cache
    def made() -> dict[str, Any]:
        return openapi.document(app, headrace.__version__)

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> dict[str, Any]:
        return made()

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(openapi.page(made()))


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    def answer(failure: Failure) -> Response:
        metrics.failed(failure.code)
        return failure.response()

    @app.exception_handler(Failure)
    async def told(_: HttpRequest, error: Failure) -> Response:
        return answer(error)

    @app.exception_handler(HeadraceError)
    async def ours(_: HttpRequest, error: HeadraceError) -> Response:
        return answer(of_error(error))

    @app.exception_handler(HTTPException)
    async def http(request: HttpRequest, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        message = f"{request.method} {request.url.path[:200]}: {error.detail}; see /docs"
        headers = error.headers
        return answer(Failure(error.status_code, message, code=code, headers=headers))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: HttpRequest, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # it hung up while it sent its body; nobody reads this

    @app.exception_handler(Exception)
    async def bug(_: HttpRequest, error: Exception) -> Response:
        message = "the server made a mistake; its log says more"
        return answer(Failure(500, message, code="internal_error"))
