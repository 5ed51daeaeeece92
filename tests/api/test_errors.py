"""What is refused, with which status, and how the error names it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import ValidationError

from headrace.api.context import encode_all
from headrace.api.schemas.tokens import DetokenizeBody
from tests.api.conftest import client_of
from tests.api.live_server import LiveServer, serving
from tests.api.toy_engine import START, ToyTokenizer, toy_service

USER: Any = [{"role": "user", "content": "hi"}]
IMAGE: Any = {"type": "image_url", "image_url": {"url": "data:"}}


def post(server: LiveServer, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=20)


def check(response: httpx.Response, status: int, code: str, param: str | None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert len(error["message"]) < 1000
    return str(error["message"])


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("tempratur", 1, "unknown_parameter"),
        ("echo", True, "unsupported_value"),
        ("suffix", "end", "unsupported_value"),
        ("best_of", 2, "unsupported_value"),
        ("temperature", "1", "invalid_value"),
        ("temperature", -1, "invalid_value"),
        ("top_p", 0, "invalid_value"),
        ("n", 0, "invalid_value"),
        ("n", 1.5, "invalid_value"),
        ("n", True, "invalid_value"),
        ("max_tokens", 0, "invalid_value"),
        ("logprobs", 21, "invalid_value"),
        ("logprobs", True, "invalid_value"),
        ("stop", [""], "invalid_value"),
        ("stop", ["x"] * 17, "invalid_value"),
        ("stop", ["x" * 1025], "invalid_value"),
        ("stop_token_ids", [1] * 257, "invalid_value"),
        ("repetition_penalty", 1e-30, "invalid_value"),
        ("seed", 2**70, "invalid_value"),
        ("logit_bias", {"a": 1}, "invalid_value"),
        ("logit_bias", {"260": 1}, "invalid_value"),
        ("logit_bias", {"1": 101}, "invalid_value"),
        ("stop_token_ids", [-1], "invalid_value"),
        ("min_tokens", 17, "invalid_value"),
        ("stream_options", {"include_usage": True}, "invalid_value"),
        ("prompt", [], "invalid_value"),
        ("prompt", ["a", 1], "invalid_value"),
        ("prompt", [[]], "invalid_value"),
        ("prompt", [300], "invalid_value"),
        ("prompt", {"a": 1}, "invalid_value"),
        ("prompt", None, "invalid_value"),
    ],
)
def test_fields_of_completions(server: LiveServer, field: str, value: Any, code: str) -> None:
    body = {"model": "toy", "prompt": "abc", field: value}
    message = check(post(server, "/v1/completions", body), 400, code, field)
    assert field in message


@pytest.mark.parametrize(
    ("field", "value", "param", "code"),
    [
        ("prompt", "a", "prompt", "unknown_parameter"),
        ("messages", [], "messages", "invalid_value"),
        ("messages", [{"role": "king", "content": ""}], "messages[0].role", "invalid_value"),
        ("messages", [{"role": "user"}], "messages[0].content", "invalid_value"),
        ("messages", [{"role": "user", "content": 3}], "messages[0].content", "invalid_value"),
        ("messages", [{"role": "user", "content": [IMAGE]}], "messages[0].content",
         "unsupported_value"),
        ("messages", [{"role": "user", "content": "", "weight": 1}], "messages[0].weight",
         "unknown_parameter"),
        ("functions", [], "functions", "unsupported_value"),
        ("tool_choice", "required", "tool_choice", "unsupported_value"),
        ("response_format", {"type": "json_object"}, "response_format.type", "unsupported_value"),
        ("store", True, "store", "unsupported_value"),
        ("service_tier", "flex", "service_tier", "unsupported_value"),
        ("modalities", ["text", "audio"], "modalities", "unsupported_value"),
        ("reasoning_effort", "high", "reasoning_effort", "unsupported_value"),
        ("top_logprobs", 2, "top_logprobs", "invalid_value"),
        ("max_tokens", 3, "max_tokens", "invalid_value"),
        ("chat_template", "{{ 1 }}", "chat_template", "unknown_parameter"),
    ],
)  # fmt: skip
def test_fields_of_chat(server: LiveServer, field: str, value: Any, param: str, code: str) -> None:
    body = {"model": "toy", "messages": USER, "max_completion_tokens": 4, field: value}
    check(post(server, "/v1/chat/completions", body), 400, code, param)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 5000, b'{"n": NaN}', b"1"],
)
def test_bodies_that_are_no_json_object(server: LiveServer, content: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/completions", content=content)
    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_value")


def test_a_body_of_nothing_but_faults_is_refused_without_listing_them(server: LiveServer) -> None:
    """Describing one fault is quick; describing a million of them stops everybody's requests."""
    tokens = {"tokens": ["a"] * 20_000}
    assert "tokens[0]" in check(
        post(server, "/detokenize", tokens), 400, "invalid_value", "tokens[0]"
    )
    with pytest.raises(ValidationError) as caught:
        DetokenizeBody.model_validate_json(json.dumps(tokens))
    assert caught.value.error_count() == 1
    unknown = {f"field{i}": 1 for i in range(2000)}
    message = check(post(server, "/detokenize", unknown), 400, "invalid_value", None)
    assert "2001 faults" in message


async def test_prompts_that_are_long_together_are_not_encoded_on_the_event_loop() -> None:
    threads: list[threading.Thread] = []

    class Watched(ToyTokenizer):
        def encode(self, text: str, *how: bool) -> list[int]:
            threads.append(threading.current_thread())
            return super().encode(text, *how)

    model: Any = SimpleNamespace(tokenizer=Watched())
    assert await encode_all(model, ["abc", [1, 2]]) == [[START, 97, 98, 99], [1, 2]]
    assert threads.pop() is threading.current_thread()
    assert await encode_all(model, ["x" * 50] * 100) == [[START] + [120] * 50] * 100
    assert len(threads) == 100
    assert threading.current_thread() not in threads


def test_a_missing_field(server: LiveServer) -> None:
    check(post(server, "/v1/completions", {}), 400, "missing_parameter", "prompt")


def test_typed_errors_of_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="toy", prompt="x" * 600)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_fault_in_one_request_is_a_500_of_its_own(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="not finite") as failed:
        client.completions.create(model="toy", prompt=["fine", "<fault>"], n=2)
    assert failed.value.status_code == 500
    assert client.completions.create(model="toy", prompt="fine").choices[0].text == "fine"


def test_a_fault_in_a_stream_is_an_event(server: LiveServer, client: OpenAI) -> None:
    response = post(server, "/v1/completions", {"prompt": "<fault>", "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert '"code":"engine_error"' in events[-3]
    assert events[-2:] == ["data: [DONE]", ""]
    with pytest.raises(openai.APIError, match="not finite"):
        list(client.completions.create(model="toy", prompt="<fault>", stream=True))


def test_a_full_queue_is_a_429_with_retry_after() -> None:
    service = toy_service(max_queue=2, max_sequences=1, step_seconds=0.02)
    with serving(service) as server:
        service.wait_ready(20)
        body = {"model": "toy", "prompt": "a", "max_tokens": 50, "ignore_eos": True}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(server, "/v1/completions", body), range(8)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 0 < len(refused) < 8
        assert {answer.json()["error"]["code"] for answer in refused} == {"queue_full"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        # What the queue can never hold is no matter of waiting.
        with pytest.raises(openai.BadRequestError, match="the queue holds 2"):
            client_of(server).completions.create(model="toy", prompt="abc", n=3)
        with pytest.raises(openai.BadRequestError, match="the queue holds 2"):
            client_of(server).completions.create(model="toy", prompt=["a"] * 50)
        answer = client_of(server).completions.create(model="toy", prompt="abc")
        assert answer.choices[0].text == "abc"


def test_unknown_paths_and_methods(server: LiveServer) -> None:
    check(httpx.get(f"{server.url}/v1/nothing"), 404, "not_found", None)
    check(httpx.get(f"{server.url}/v1/completions"), 405, "method_not_allowed", None)
