"""/v1/chat/completions as the unmodified openai client sees it."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from headrace.api.settings import ServerSettings
from tests.api.conftest import client_of
from tests.api.live_server import serving
from tests.api.toy_engine import ToyTemplate, toy_service

HELLO: Any = [{"role": "user", "content": "hello"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def test_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="toy", messages=HELLO)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "hello")
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5  # the template adds special tokens, nobody else


def test_a_stream_has_role_then_text_then_finish_then_usage(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="toy", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    first, *middle, finish, last = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == ""
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == "hello"
    assert all(chunk.choices[0].finish_reason is None for chunk in middle)
    assert finish.choices[0].finish_reason == "stop"
    assert finish.choices[0].delta.content is None
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 6


def test_choices_of_a_stream_each_begin_and_end(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="toy", messages=HELLO, n=3, stream=True)
    seen: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for chunk in stream:
        for choice in chunk.choices:
            seen[choice.index].append(choice)
    for choices in seen.values():
        assert [c.delta.role for c in choices].count("assistant") == 1
        assert choices[0].delta.role == "assistant"
        assert choices[-1].finish_reason == "stop"
        assert "".join(c.delta.content or "" for c in choices) == "hello"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: OpenAI, stream: bool) -> None:
    messages: Any = [{"role": "user", "content": "aé"}]
    if stream:
        entries: list[Any] = []
        for chunk in client.chat.completions.create(
            model="toy", messages=messages, logprobs=True, top_logprobs=2, stream=True
        ):
            if chunk.choices[0].logprobs is not None:
                entries += chunk.choices[0].logprobs.content or []
    else:
        answer = client.chat.completions.create(
            model="toy", messages=messages, logprobs=True, top_logprobs=2
        )
        assert answer.choices[0].logprobs is not None
        entries = answer.choices[0].logprobs.content or []
    assert [entry.token for entry in entries] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert bytes(byte for entry in entries for byte in entry.bytes) == "aé".encode()
    assert [(t.token, t.logprob) for t in entries[0].top_logprobs] == [("A", -1.0), ("B", -2.0)]


def test_content_in_parts_and_all_roles(client: OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "1"},
        {"role": "developer", "content": "2"},
        {"role": "user", "content": [{"type": "text", "text": "3"}, {"type": "text", "text": "4"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "5"},
    ]  # fmt: skip
    answer = client.chat.completions.create(model="toy", messages=messages)
    assert answer.choices[0].message.content == "123\n45"


def test_an_answer_can_be_sent_back(client: OpenAI) -> None:
    first = client.chat.completions.create(model="toy", messages=HELLO)
    messages: Any = [*HELLO, first.choices[0].message, {"role": "user", "content": "!"}]
    again = client.chat.completions.create(model="toy", messages=messages)
    assert again.choices[0].message.content == "hellohello!"


def test_tools_go_to_the_template(client: OpenAI) -> None:
    def text(choice: Any) -> str | None:
        answer = client.chat.completions.create(
            model="toy", messages=HELLO, tools=TOOLS, tool_choice=choice, parallel_tool_calls=True
        )
        return answer.choices[0].message.content

    assert text("auto") == "[look]hello"
    assert text("none") == "hello"
    for forced in ("required", {"type": "function", "function": {"name": "look"}}):
        with pytest.raises(BadRequestError) as refused:
            text(forced)
        assert refused.value.param == "tool_choice"


def test_tools_that_the_template_has_no_place_for() -> None:
    with serving(toy_service(template=ToyTemplate(takes_tools=False))) as server:
        client = client_of(server)
        with pytest.raises(BadRequestError, match="no place for tools") as refused:
            client.chat.completions.create(model="toy", messages=HELLO, tools=TOOLS)
        assert refused.value.param == "tools"


def test_a_model_without_template() -> None:
    service = toy_service()
    with serving(service, ServerSettings()) as server:
        service.wait_ready(20)
        object.__setattr__(service.model, "chat_template", None)
        with pytest.raises(BadRequestError, match="no chat template; use /v1/completions"):
            client_of(server).chat.completions.create(model="toy", messages=HELLO)


def test_fields_that_change_nothing(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="toy", messages=HELLO, metadata={"a": "b"}, store=False, service_tier="auto",
        response_format={"type": "text"}, user="someone", safety_identifier="x",
        prompt_cache_key="y", modalities=["text"], n=1, stop=None, max_completion_tokens=3,
        logprobs=False, verbosity="medium", tool_choice="none",
    )  # fmt: skip
    assert answer.choices[0].message.content == "hel"
    assert answer.choices[0].finish_reason == "length"
