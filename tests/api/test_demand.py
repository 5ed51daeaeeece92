"""Priorities, targets and categories: by body, by header, by tenant; and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.api.demand import HEADERS
from headrace.api.keys import ApiKeys
from headrace.api.settings import ServerSettings
from headrace.engine.service import EngineService
from headrace.llm import LLM
from headrace.nouns.errors import InvalidRequest
from headrace.nouns.request import Request, Targets
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.tenant import Tenants, Terms
from tests.api.live_server import LiveServer, serving
from tests.api.toy_engine import toy_service

GOLD = Terms(priority=-2, max_tokens=20, targets=Targets(ttft=60.0, deadline=90.0))
TENANTS = Tenants({"gold": GOLD}, others=Terms(priority=3))

Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[LiveServer, list[Request]]]:
    """A server of two tenants, and the requests that reached its engine."""
    service = toy_service(tenants=TENANTS)
    seen: list[Request] = []
    submit = service.submit

    def spy(request: Request, on_delta: Any) -> None:
        seen.append(request)
        submit(request, on_delta)

    service.submit = spy  # type: ignore[method-assign]
    keys = ApiKeys({"key-of-gold": "gold", "other-key": "someone"})
    with serving(service, ServerSettings(keys=keys)) as server:
        service.wait_ready(20)
        yield server, seen


@pytest.fixture
def send(asked: tuple[LiveServer, list[Request]]) -> Send:
    server, seen = asked
    seen.clear()

    def post(headers: Any = None, key: str = "other-key", **body: Any) -> httpx.Response:
        fields = [("Authorization", f"Bearer {key}"), *(headers or [])]
        url = f"{server.url}/v1/completions"
        return httpx.post(url, json={"prompt": "abc", **body}, headers=fields, timeout=20)

    return post


@pytest.fixture
def reached(asked: tuple[LiveServer, list[Request]]) -> Callable[[], Request]:
    """The one request that reached the engine."""

    def only() -> Request:
        [request] = asked[1]
        return request

    return only


def test_fields_of_the_body(send: Send, reached: Callable[[], Request]) -> None:
    targets = {"ttft": 50, "tpot": 5.5, "deadline": 100}
    assert send(priority=7, targets=targets, category="chat/short").status_code == 200
    request = reached()
    assert (request.priority, request.category, request.tenant) == (7, "chat/short", "someone")
    assert (request.targets.ttft, request.targets.tpot) == (50.0, 5.5)
    assert request.targets.deadline == pytest.approx(request.arrival + 100, abs=5)


def test_headers_mean_the_same(send: Send, reached: Callable[[], Request]) -> None:
    headers = [("X-Priority", "-7"), ("X-Target-TTFT", "50"), ("X-Target-TPOT", "5.5"),
               ("X-Deadline", "100"), ("X-Category", "chat")]  # fmt: skip
    assert send(headers).status_code == 200
    request = reached()
    assert (request.priority, request.category) == (-7, "chat")
    assert (request.targets.ttft, request.targets.tpot) == (50.0, 5.5)
    assert request.targets.deadline == pytest.approx(request.arrival + 100, abs=5)


def test_the_body_wins_over_the_header_and_the_header_over_the_tenant(
    send: Send, reached: Callable[[], Request]
) -> None:
    headers = [("X-Priority", "5"), ("X-Target-TTFT", "40"), ("X-Target-TPOT", "4")]
    assert send(headers, key="key-of-gold", targets={"ttft": 30}, priority=0).status_code == 200
    request = reached()
    assert request.priority == 0
    assert (request.targets.ttft, request.targets.tpot) == (30.0, 4.0)
    assert request.targets.deadline == pytest.approx(request.arrival + 90, abs=5)


def test_tenants_have_their_defaults(send: Send, asked: tuple[LiveServer, list[Request]]) -> None:
    assert send(key="key-of-gold").status_code == 200
    assert send().status_code == 200
    gold, other = asked[1]
    assert (gold.priority, gold.targets.ttft) == (-2, 60.0)
    assert (other.priority, other.targets) == (3, Targets())


def test_a_tenants_bound_on_output(send: Send, reached: Callable[[], Request]) -> None:
    refused = send(key="key-of-gold", max_tokens=21)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "max_tokens"
    assert "max_tokens is 21; the tenant 'gold' may ask for 20" in refused.text
    assert send(key="key-of-gold", max_tokens=20).status_code == 200
    assert reached().max_tokens == 20
    assert send(max_tokens=21).status_code == 200


def test_who_asks_for_no_bound_gets_the_tenants(asked: tuple[LiveServer, list[Request]]) -> None:
    server, seen = asked
    seen.clear()
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for key in ("key-of-gold", "other-key"):
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{server.url}/v1/chat/completions"
        assert httpx.post(url, json=body, headers=headers, timeout=20).status_code == 200
    assert [request.max_tokens for request in seen] == [20, 507]


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"targets": {"ttft": 0}}, "targets.ttft", "targets.ttft is 0"),
        ({"targets": {"tpot": -1}}, "targets.tpot", "greater than 0"),
        ({"targets": {"deadline": 0}}, "targets.deadline", "greater than 0"),
        ({"targets": {"deadline": 1e7}}, "targets.deadline", "1000000"),
        ({"targets": {"ttft": "1"}}, "targets.ttft", "number"),
        ({"targets": {"ttft": True}}, "targets.ttft", "number"),
        ({"targets": {"tpft": 1}}, "targets.tpft", "unknown field"),
        ({"targets": 1}, "targets", "targets"),
        ({"priority": 2**31}, "priority", "priority"),
        ({"priority": 0.5}, "priority", "integer"),
        ({"category": ""}, "category", "category"),
        ({"category": "a b"}, "category", "pattern"),
        ({"category": "x" * 65}, "category", "pattern"),
    ],
)
def test_wrong_fields(send: Send, body: dict[str, Any], param: str, told: str) -> None:
    refused = send(**body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == param
    assert told in error["message"]


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("X-Priority", "high", "integer"),
        ("X-Priority", "1.0", "integer"),
        ("X-Priority", "2147483648", "2147483647"),
        ("X-Target-TTFT", "0", "above 0"),
        ("X-Target-TTFT", "1s", "seconds"),
        ("X-Target-TPOT", "-1", "above 0"),
        ("X-Target-TPOT", "nan", "seconds"),
        ("X-Deadline", "1000001", "1000000"),
        ("X-Deadline", "1e3", "seconds"),
        ("X-Category", "a b", "letters"),
        ("X-Category", "", "letters"),
    ],
)
def test_wrong_headers(send: Send, name: str, value: str, limit: str) -> None:
    """Also where the body says otherwise: what is not understood is not passed over."""
    targets = {"ttft": 50, "tpot": 50, "deadline": 50}
    refused = send([(name, value)], targets=targets, priority=0, category="c")
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == (name, "invalid_value")
    assert name in error["message"]
    assert limit in error["message"]


def test_a_header_that_is_there_twice(send: Send) -> None:
    refused = send([("X-Priority", "1"), ("X-Priority", "2")])
    assert refused.status_code == 400
    assert "2 times" in refused.json()["error"]["message"]


def test_a_deadline_that_has_passed() -> None:
    service = toy_service()
    with serving(service):
        service.wait_ready(20)
        now = service.now()
        with pytest.raises(InvalidRequest, match="deadline passed") as caught:
            service.request([1], SamplingParams(), targets=Targets(deadline=now - 3))
        assert caught.value.param == "targets.deadline"


def test_the_library_takes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    service: EngineService = toy_service(tenants=TENANTS)
    with serving(service):
        llm = LLM.over(service)
        seen: list[Request] = []
        submit = service.submit

        def spy(request: Request, on_delta: Any) -> None:
            seen.append(request)
            submit(request, on_delta)

        monkeypatch.setattr(service, "submit", spy)
        params = SamplingParams(max_tokens=4)
        llm.generate(["a", "b"], params, tenant="gold", targets=Targets(deadline=50), category="c")
        list(llm.stream("a", params, priority=9))
        assert [r.priority for r in seen] == [-2, -2, 9]
        assert [r.category for r in seen] == ["c", "c", ""]
        first = seen[0]
        assert first.targets.ttft == 60.0
        assert first.targets.deadline == pytest.approx(first.arrival + 50, abs=5)


def test_headers_are_in_the_documents(asked: tuple[LiveServer, list[Request]]) -> None:
    server, _ = asked
    document = httpx.get(f"{server.url}/openapi.json").json()
    page = httpx.get(f"{server.url}/docs").text
    for path in ("/v1/completions", "/v1/chat/completions"):
        parameters = document["paths"][path]["post"]["parameters"]
        assert {p["name"] for p in parameters if p["in"] == "header"} == set(HEADERS)
    fields = document["components"]["schemas"]["CompletionBody"]["properties"]
    assert {"priority", "targets", "category"} <= set(fields)
    described = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for name in HEADERS:
        assert name in page
        assert f"`{name}`" in described
