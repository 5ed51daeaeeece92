"""Guard: lets requests in, or not, before anything reads them."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.api.context import TENANT
from headrace.api.failure import Failure
from headrace.api.keys import DEFAULT_TENANT
from headrace.api.metrics import Metrics
from headrace.api.settings import ServerSettings, is_loopback

OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})


class Guard:
    """ASGI middleware. Checks the API key, and the size that a body is announced to have.

    A server without keys on a loopback address trusts its machine, but web pages that a browser
    there has open are not the machine: requests that come from another site's page, or through a
    name that was made to point here (DNS rebinding), are refused.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope[TENANT] = self._admit(scope["path"], Headers(scope=scope))
            except Failure as failure:
                self._metrics.failed(failure.code)
                await failure.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, path: str, headers: Headers) -> str:
        """The tenant. Raises Failure."""
        limit = self._settings.max_body_bytes
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limit:
            message = f"the body has {announced[:20]} bytes; at most {limit} are allowed"
            raise Failure(413, message, code="body_too_large")
        if not self._settings.keys:
            if not self._settings.allow_unauthenticated:
                _check_browser(headers)
            return DEFAULT_TENANT
        if path in OPEN_PATHS:
            return DEFAULT_TENANT
        scheme, _, key = headers.get("authorization", "").partition(" ")
        tenant = self._settings.keys.tenant(key.strip()) if scheme.lower() == "bearer" else None
        if tenant is None:
            told = "the API key is not known" if key else "no API key was given"
            raise Failure(
                401,
                f"{told}; send the header 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return tenant


def _check_browser(headers: Headers) -> None:
    host = headers.get("host", "localhost")
    if not is_loopback(_split(host)[0]):
        raise Failure(
            403,
            f"the request is addressed to {host[:80]!r}, but this server has no API keys and"
            " answers to localhost only; set API keys or pass --allow-unauthenticated",
            code="host_not_allowed",
        )
    origin = headers.get("origin")
    if origin is not None and _split(origin.partition("//")[2])[1] != host:
        raise Failure(
            403,
            f"pages of {origin[:80]!r} may not use this server; set API keys or pass"
            " --allow-unauthenticated",
            code="origin_not_allowed",
        )


def _split(address: str) -> tuple[str, str]:
    """Host name, and host name with port; both empty where there is no such thing."""
    try:
        parts = urlsplit(f"//{address}")
    except ValueError:
        return "", ""
    return parts.hostname or "", parts.netloc
