"""One server on the toy model for the tests that do not change it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from headrace.engine.service import EngineService
from tests.api.live_server import LiveServer, serving
from tests.api.toy_engine import toy_service


@pytest.fixture(scope="session")
def service() -> EngineService:
    return toy_service()


@pytest.fixture(scope="session")
def server(service: EngineService) -> Iterator[LiveServer]:
    with serving(service) as live:
        service.wait_ready(20)
        yield live


@pytest.fixture(scope="session")
def client(server: LiveServer) -> OpenAI:
    return client_of(server)


@pytest.fixture(scope="session")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    """Plain HTTP with the server's URL before each path; keeps its connection."""
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


def client_of(server: LiveServer, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=20)
