"""The server on the default model: what clients rely on, end to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from headrace.engine.config import EngineConfig
from headrace.engine.service import EngineService
from tests.api.conftest import client_of
from tests.api.live_server import LiveServer, serving, until

MODEL = "smollm2:135m"
RIVERS: Any = [{"role": "user", "content": "Name three rivers of Europe."}]


@pytest.fixture(scope="module")
def real() -> EngineService:
    config = EngineConfig(
        weights="float32", max_context=512, cache_bytes=128 * 2**20, token_budget=128
    )
    return EngineService(config)


@pytest.fixture(scope="module")
def real_server(real: EngineService) -> Iterator[LiveServer]:
    with serving(real) as live:
        real.wait_ready()
        yield live


@pytest.fixture(scope="module")
def talk(real_server: LiveServer) -> OpenAI:
    return client_of(real_server)


def test_the_model_is_listed(talk: OpenAI) -> None:
    assert [model.id for model in talk.models.list()] == [MODEL]


def test_a_streamed_answer_equals_the_whole_one(talk: OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": RIVERS, "temperature": 0, "max_tokens": 24}
    whole = talk.chat.completions.create(**asked)
    chunks = talk.chat.completions.create(**asked, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert len(text) > 20
    assert whole.choices[0].message.content == text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24


def test_a_seed_repeats_in_any_company(talk: OpenAI, real_server: LiveServer) -> None:
    asked: Any = {"model": MODEL, "prompt": "The river", "seed": 11, "max_tokens": 12, "n": 2}
    alone = [choice.text for choice in talk.completions.create(**asked).choices]
    assert alone[0] != alone[1]

    async def in_company() -> list[list[str]]:
        async with AsyncOpenAI(base_url=f"{real_server.url}/v1", api_key="none") as client:
            others = [
                client.completions.create(model=MODEL, prompt=f"Number {i} is", max_tokens=8)
                for i in range(6)
            ]
            asked_again = [client.completions.create(**asked) for _ in range(2)]
            answers = await asyncio.gather(*others, *asked_again)
        return [[choice.text for choice in answer.choices] for answer in answers[-2:]]

    assert asyncio.run(in_company()) == [alone, alone]


def test_logprobs_spell_the_text(talk: OpenAI) -> None:
    answer = talk.chat.completions.create(
        model=MODEL, messages=RIVERS, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    report = answer.choices[0].logprobs
    assert report is not None
    entries = report.content or []
    assert b"".join(bytes(e.bytes or []) for e in entries).decode() == (
        answer.choices[0].message.content
    )
    for entry in entries:
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].token == entry.token  # greedy: the likeliest
        assert len(entry.top_logprobs) == 3


def test_token_ids_and_text_are_the_same_prompt(talk: OpenAI, real_server: LiveServer) -> None:
    text = "Überraschung: 42 times 👍"
    made = httpx.post(f"{real_server.url}/tokenize", json={"prompt": text}).json()
    back = httpx.post(f"{real_server.url}/detokenize", json={"tokens": made["tokens"]}).json()
    assert back == {"prompt": text}
    answers = [
        talk.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=6)
        for prompt in (text, made["tokens"])
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text


def test_a_stop_string_and_a_repeated_prefix(talk: OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, " * 8, "temperature": 0}
    whole = talk.completions.create(**asked).choices[0].text
    assert "4" in whole
    again = talk.completions.create(**asked, stop=" 4")
    assert again.choices[0].text == whole[: whole.index(" 4")]
    assert again.choices[0].finish_reason == "stop"
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) >= 32


def test_refusals(talk: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look"}}]
    with pytest.raises(openai.BadRequestError, match="no place for tools"):
        talk.chat.completions.create(model=MODEL, messages=RIVERS, tools=tools)
    with pytest.raises(openai.BadRequestError) as refused:
        talk.completions.create(model=MODEL, prompt="river " * 600)
    assert refused.value.code == "context_length_exceeded"


def test_a_hang_up_frees_the_memory(real: EngineService, talk: OpenAI) -> None:
    stream = talk.completions.create(
        model=MODEL, prompt="Once", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = iter(stream)
    next(chunks)
    assert real.status().running == 1
    stream.close()
    until(lambda: real.status().running == 0)
    assert real.status().free_blocks == real.status().total_blocks
