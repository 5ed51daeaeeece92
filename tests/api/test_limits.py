"""Tenants' limits, targets and predicted waits, from the socket to the scheduler and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from headrace.api.keys import ApiKeys
from headrace.api.settings import ServerSettings
from headrace.engine.service import EngineService
from headrace.nouns.request import Targets
from headrace.nouns.tenant import Tenants, Terms
from headrace.scheduling.linear_cost import LinearCost
from tests.api.live_server import LiveServer, serving, until
from tests.api.test_operation import samples_of
from tests.api.toy_engine import toy_service

COST = LinearCost({"step": 0.02})
LONG = {"prompt": "<slow>abc", "max_tokens": 400, "ignore_eos": True, "stream": True}


@contextlib.contextmanager
def limited(**options: Any) -> Iterator[tuple[LiveServer, EngineService]]:
    """A server whose tenants "few" and "one" may have 2 waiting, and 1 running."""
    tenants = Tenants({"few": Terms(max_waiting=2), "one": Terms(max_running=1)})
    service = toy_service(**{"tenants": tenants, "cost": COST, **options})
    keys = ApiKeys({name: name for name in ("few", "one", "someone", "else")})
    with serving(service, ServerSettings(keys=keys)) as server:
        service.wait_ready(20)
        yield server, service


def post(server: LiveServer, tenant: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {tenant}"}
    body = {"prompt": "abc", **body}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=20)


@contextlib.contextmanager
def open_streams(server: LiveServer, tenant: str, count: int) -> Iterator[list[str]]:
    """Requests that go on for as long as this context; their ids."""
    headers = {"Authorization": f"Bearer {tenant}"}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=20))
        ids = []
        for _ in range(count):
            stream = client.stream("POST", "/v1/completions", json=LONG, headers=headers)
            ids.append(stack.enter_context(stream).headers["x-request-id"])
        yield ids


def test_a_tenant_with_too_many_waiting_is_alone_in_being_refused() -> None:
    with limited(max_sequences=1) as (server, service), open_streams(server, "someone", 1):
        until(lambda: service.status().running == 1)
        with open_streams(server, "few", 2):
            until(lambda: service.status().waiting == 2)
            refused = post(server, "few")
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "tenant_queue_full"
            assert int(refused.headers["retry-after"]) >= 1
            with open_streams(server, "else", 1):
                until(lambda: service.status().waiting == 3)
        assert samples_of(server, "few")["headrace_refused_total tenant_queue_full few"] == 1


def test_what_a_tenant_can_never_have_waiting_is_no_matter_of_time() -> None:
    with limited() as (server, _):
        for body in ({"n": 3}, {"prompt": ["a", "b", "c"]}):
            refused = post(server, "few", **body)
            assert refused.status_code == 400
            assert "holds 2" in refused.json()["error"]["message"]
            assert post(server, "someone", **body).status_code == 200


def test_many_at_once_never_pass_a_tenants_bound() -> None:
    """Whatever comes together: those beyond the bound are refused, the others answered."""
    with limited(max_sequences=1, step_seconds=0.002) as (server, service):
        most = 0

        def send(tenant: str) -> tuple[str, int]:
            nonlocal most
            answer = post(server, tenant, max_tokens=4)
            most = max(most, service.built.engine.scheduler.usage.waiting("few"))
            return tenant, answer.status_code

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(send, ["few", "else"] * 12))
        assert most <= 2
        assert {status for tenant, status in answers if tenant == "else"} == {200}
        assert {status for tenant, status in answers if tenant == "few"} <= {200, 429}
        assert ("few", 200) in answers


def test_a_tenant_runs_no_more_than_it_may_and_holds_up_nobody() -> None:
    with limited() as (server, service), open_streams(server, "one", 3) as ids:
        until(lambda: service.status().waiting == 2)
        assert post(server, "else").status_code == 200
        scheduler = service.built.engine.scheduler
        assert (scheduler.usage.running("one"), scheduler.usage.waiting("one")) == (1, 2)
        told = httpx.get(
            f"{server.url}/requests/{ids[-1]}", headers={"Authorization": "Bearer one"}
        ).json()
        [sequence] = told["sequences"]
        assert sequence["waits_for"] == "tenant"
        assert sequence["because"] == "its tenant may run 1 at once"


def test_a_target_that_is_out_of_reach_is_refused_at_once() -> None:
    with limited(max_sequences=1) as (server, service), open_streams(server, "someone", 1):
        until(lambda: service.status().running == 1)
        with open_streams(server, "else", 1):
            until(lambda: service.status().waiting == 1)
            refused = post(server, "else", targets={"ttft": 0.5})
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "target_out_of_reach"
            assert 1 <= int(refused.headers["retry-after"]) <= 17  # 400 + 400 steps of 20 ms
            by_header = httpx.post(
                f"{server.url}/v1/completions",
                json={"prompt": "abc"},
                headers={"Authorization": "Bearer else", "X-Deadline": "0.5"},
            )
            assert by_header.status_code == 429
            found = samples_of(server, "else")
            assert found["headrace_refused_total target_out_of_reach other"] == 2
            assert found["headrace_errors_total target_out_of_reach"] == 2


def test_a_target_that_nobody_could_meet_is_a_bad_request() -> None:
    with limited() as (server, _):
        refused = post(server, "else", targets={"ttft": 0.001})
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("target_out_of_reach", "targets")
        assert "raise the target" in error["message"]
        assert post(server, "else", targets={"ttft": 5.0}).status_code == 200


def test_a_tenants_default_target_counts() -> None:
    tenants = Tenants({"few": Terms(targets=Targets(ttft=0.001))})
    with limited(tenants=tenants) as (server, _):
        assert post(server, "few").status_code == 400
        assert post(server, "few", targets={"ttft": 5}).status_code == 200
        assert post(server, "else").status_code == 200


def test_the_predicted_wait_is_told() -> None:
    with limited(max_sequences=1) as (server, service):
        assert httpx.get(f"{server.url}/ready").json()["predicted_wait"] == 0.0
        with open_streams(server, "someone", 1), open_streams(server, "else", 1) as ids:
            until(lambda: service.status().waiting == 1)
            until(lambda: (service.predicted_wait() or 0.0) > 1.0)
            wait = httpx.get(f"{server.url}/ready").json()["predicted_wait"]
            assert 1.0 < wait <= 16.1
            gauge = samples_of(server, "else")["headrace_predicted_wait_seconds"]
            assert 1.0 < gauge <= 16.1
            headers = {"Authorization": "Bearer else"}
            url = f"{server.url}/requests/{ids[0]}"

            def start() -> float | None:  # unknown until the next look at the queue
                told = httpx.get(url, headers=headers).json()
                found: float | None = told["sequences"][0]["predicted_start"]
                return found

            until(lambda: start() is not None)
            assert 0.0 < (start() or 0.0) < wait
        until(lambda: service.status().running == 0)
        until(lambda: service.predicted_wait() == 0.0)


def test_a_server_that_does_not_know_says_so() -> None:
    with limited(cost=None, max_sequences=1) as (server, service):
        assert httpx.get(f"{server.url}/ready").json()["predicted_wait"] == 0.0
        with open_streams(server, "someone", 2):
            until(lambda: service.status().waiting == 1)
            assert httpx.get(f"{server.url}/ready").json()["predicted_wait"] is None
            assert "headrace_predicted_wait_seconds" not in samples_of(server, "else")
            assert service.status().waiting == 1


def test_metrics_by_tenant() -> None:
    with limited() as (server, _):
        post(server, "few", max_tokens=4)
        post(server, "few", max_tokens=4, targets={"ttft": 10, "tpot": 0.000001})
        post(server, "else", max_tokens=2, targets={"deadline": 10})
        found = samples_of(server, "else")
    assert found["headrace_tenant_requests_total few"] == 2
    assert found["headrace_tenant_requests_total one"] == 0
    assert found["headrace_tenant_requests_total other"] == 1
    assert found["headrace_tenant_tokens_total prompt few"] == 8
    assert found["headrace_tenant_tokens_total generated few"] == 8
    assert found["headrace_tenant_tokens_total generated other"] == 2
    assert found["headrace_targets_total yes ttft few"] == 1
    assert found["headrace_targets_total no tpot few"] == 1
    assert found["headrace_targets_total yes e2e other"] == 1
    assert found["headrace_targets_total yes ttft other"] == 0
    assert not any("else" in name for name in found)


@pytest.mark.parametrize("tenant", ["few", "someone"])
def test_choices_without_targets_meet_and_miss_none(tenant: str) -> None:
    with limited() as (server, _):
        post(server, tenant)
        found = samples_of(server, tenant)
    targets = {name: value for name, value in found.items() if "headrace_targets" in name}
    assert len(targets) == 3 * 3 * 2
    assert set(targets.values()) == {0}
