"""Health, readiness, metrics, explanations, documents, tokens and models."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from headrace.engine.service import EngineService
from headrace.nouns.event import Event, Kind
from tests.api.conftest import client_of
from tests.api.live_server import LiveServer, serving, until
from tests.api.toy_engine import toy_service


def samples(server: LiveServer) -> dict[str, float]:
    """Metric values; labels are written after the name."""
    return samples_of(server, "none")


def samples_of(server: LiveServer, key: str) -> dict[str, float]:
    """As ``samples``, with an API key."""
    headers = {"Authorization": f"Bearer {key}"}
    text = httpx.get(f"{server.url}/metrics", headers=headers).text
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_models(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.created) == ("toy", "model", 1_700_000_000)
    assert client.models.retrieve("toy") == model


def test_tokenize_and_detokenize(server: LiveServer) -> None:
    def post(path: str, body: Any) -> Any:
        return httpx.post(f"{server.url}{path}", json=body).json()

    made = post("/tokenize", {"prompt": "aé"})
    assert made == {"count": 4, "max_model_len": 512, "tokens": [257, 97, 0xC3, 0xA9]}
    assert post("/tokenize", {"prompt": "a", "add_special_tokens": False})["tokens"] == [97]
    message = {"role": "user", "content": "a"}
    assert post("/tokenize", {"messages": [message]})["tokens"] == [97]
    assert post("/detokenize", {"tokens": made["tokens"]}) == {"prompt": "<start>aé"}
    assert post("/detokenize", {"tokens": [260]})["error"]["param"] == "tokens[0]"
    assert post("/tokenize", {})["error"]["code"] == "invalid_value"
    assert post("/tokenize", {"prompt": "a", "messages": [message]})["error"]["param"] == "prompt"
    assert post("/tokenize", {"prompt": "a", "tools": []})["error"]["param"] == "tools"
    assert post("/tokenize", {"prompt": "a", "model": "b"})["error"]["code"] == "model_not_found"


def test_a_long_text_is_tokenised_all_the_same(server: LiveServer) -> None:
    made = httpx.post(f"{server.url}/tokenize", json={"prompt": "x" * 5000}).json()
    assert made["count"] == 5001


def test_metrics_count_what_happened() -> None:
    with serving(toy_service()) as server:
        client = client_of(server)
        client.completions.create(model="toy", prompt="a prefix of more than a block", n=2)
        client.completions.create(model="toy", prompt="a prefix of more than a block")
        list(client.completions.create(model="toy", prompt="abc", stream=True))
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "", "nonsense": 1})
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "<fault>"})
        found = samples(server)
    assert found["headrace_requests_total"] == 4
    assert found["headrace_finished_total length"] == 3
    assert found["headrace_finished_total stop"] == 1
    assert found["headrace_finished_total error"] == 1
    assert found["headrace_prompt_tokens_total"] == 30 + 30 + 4 + 2
    assert found["headrace_generated_tokens_total"] == 3 * 16 + 4
    assert found["headrace_cached_tokens_total"] == 16
    assert found["headrace_errors_total unknown_parameter"] == 1
    assert found["headrace_errors_total engine_error"] == 1
    assert found["headrace_ttft_seconds_count"] == 4
    assert found["headrace_tpot_seconds_count"] == 4
    assert found["headrace_e2e_seconds_count"] == 5
    assert found["headrace_itl_seconds_count"] == 3 * 15 + 2  # an end token is not delivered
    assert found["headrace_wait_seconds_count queue"] >= 4
    assert found["headrace_running_sequences"] == 0
    assert found["headrace_waiting_sequences"] == 0
    assert found["headrace_cache_blocks_used"] == 0
    assert found["headrace_cache_blocks_total"] == 2048
    assert found["headrace_step_seconds_count"] == found["headrace_steps"]
    assert found["headrace_step_tokens_sum"] >= 30 + 4
    assert found["headrace_step_operations_total"] == 10 * found["headrace_step_tokens_sum"]
    assert found["headrace_step_bytes_total"] == 3 * found["headrace_steps"]
    assert found["headrace_step_limit_seconds_total"] == 0
    assert found["headrace_last_step_age_seconds"] >= 0
    assert found["headrace_ready"] == 1


def test_the_share_of_the_limit() -> None:
    with serving(toy_service(step_seconds=0.001)) as server:
        client_of(server).completions.create(model="toy", prompt="abc")
        found = samples(server)
    elapsed = found["headrace_step_seconds_sum"]
    assert found["headrace_step_limit_seconds_total"] == pytest.approx(elapsed / 4)
    assert found["headrace_limit_share"] == pytest.approx(0.25)


def test_what_the_thrash_guard_keeps_free() -> None:
    service = toy_service()
    with serving(service) as server:
        assert samples(server)["headrace_cache_share_spared"] == 0
        data = {"level": 1, "spare": 0.0625, "lost": 9, "window": 64}
        service._sinks(Event(Kind.THRASHING, 1.0, reason="as the guard tells it", data=data))
        assert samples(server)["headrace_cache_share_spared"] == 0.0625


def test_every_metric_is_documented(server: LiveServer, client: OpenAI) -> None:
    client.completions.create(model="toy", prompt="<slow>a")
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    text = httpx.get(f"{server.url}/metrics").text
    names = re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)
    assert len(names) > 15
    assert [name for name in names if f"`{name}`" not in page] == []


def test_explaining_a_request(server: LiveServer, client: OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="abc")
    told = httpx.get(f"{server.url}/requests/{answer.id}").json()
    assert told["id"] == answer.id
    assert told["state"] == "ended"
    assert "arrived" in [event["kind"] for event in told["events"]]

    answer = client.completions.create(model="toy", prompt=["abc", "d"])
    told = httpx.get(f"{server.url}/requests/{answer.id}").json()
    assert [part["id"] for part in told["prompts"]] == [f"{answer.id}.0", f"{answer.id}.1"]

    missing = httpx.get(f"{server.url}/requests/cmpl-unknown")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "request_not_found"


def test_explaining_a_request_that_waits() -> None:
    service = toy_service(max_sequences=1)
    with serving(service) as server:
        client = client_of(server)
        first = client.completions.create(
            model="toy", prompt="<slow>abc", max_tokens=400, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        with first, client.completions.create(model="toy", prompt="d", stream=True) as second:
            id = second.response.headers["x-request-id"]
            until(lambda: service.status().waiting == 1)
            told = httpx.get(f"{server.url}/requests/{id}").json()
            assert told["state"] == "active"
            [sequence] = told["sequences"]
            assert sequence["waits_for"] is not None
            assert sequence["because"]


def test_ready_tells_of_loading_and_of_the_last_step() -> None:
    may_load = threading.Event()
    service = toy_service(may_load=may_load)
    with serving(service) as server:
        loading = httpx.get(f"{server.url}/ready")
        assert (loading.status_code, loading.json()["status"]) == (503, "loading")
        assert httpx.get(f"{server.url}/health").status_code == 200
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_stopped"
        may_load.set()
        service.wait_ready(20)
        ready = httpx.get(f"{server.url}/ready").json()
        assert (ready["status"], ready["model"], ready["last_step_age"]) == ("ready", "toy", None)
        client_of(server).completions.create(model="toy", prompt="a")
        assert httpx.get(f"{server.url}/ready").json()["last_step_age"] >= 0


def test_a_dead_engine_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    service: EngineService = toy_service()
    with serving(service) as server:
        service.wait_ready(20)
        engine = service.built.engine

        def broken() -> Any:
            raise RuntimeError("a bug")

        monkeypatch.setattr(engine, "step", broken)
        answers = []
        body = {"prompt": ["a", "b"], "n": 2}
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    httpx.post(f"{server.url}/v1/completions", json=body, timeout=20)
                )
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert {answer.status_code for answer in answers} <= {500, 503}
        assert len(answers) == 3
        health = httpx.get(f"{server.url}/health")
        assert health.status_code == 503
        assert "a bug" in health.json()["reason"]
        assert httpx.get(f"{server.url}/ready").json()["status"] == "failed"
        assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 503


def test_openapi_document(server: LiveServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/ready"):
        assert path in document["paths"]
    schemas = document["components"]["schemas"]
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', str(document).replace("'", '"')))
    assert referred <= set(schemas)
    assert {"top_k", "messages", "max_completion_tokens"} <= set(schemas["ChatBody"]["properties"])


def test_the_documentation_page_needs_nothing_from_elsewhere(server: LiveServer) -> None:
    assert httpx.get(f"{server.url}/").headers["location"] == "/docs"
    page = httpx.get(f"{server.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/v1/chat/completions" in page.text
    assert "top_k" in page.text
    assert not re.search(r"https?://|<script|<link|@import", page.text)
